"""What a sweep has found: its runs, and what a metric came to in each."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

ENDED = ("finished", "diverged", "stopped")
"""How a run may end that counts as a result; "failed" is none, and is run again."""


@dataclass
class Run:
    """One run of a configuration.

    Args:
        trial: number of the configuration.
        seed: of the run.
        values: coded values by field.
        status: "finished", "diverged", "stopped" (by the scheduler) or "failed".
        rows: metrics, one mapping per evaluated round.
        seconds: from its start to its end; shared by runs that trained together.
        error: traceback of one that failed.
        history: where values changed on the way: [round, values] of each stretch.
    """

    trial: int
    seed: int
    values: dict[str, Any]
    status: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    error: str = ""
    history: list[Any] = field(default_factory=list)

    @property
    def key(self) -> tuple[int, int]:
        """What tells it from the others."""
        return self.trial, self.seed

    @property
    def round(self) -> int:
        """The last round there are metrics of."""
        return int(self.rows[-1]["round"]) if self.rows else 0

    def value(self, metric: str, mode: str, at: str) -> float:
        """What a metric came to; NaN for a run that diverged or failed.

        Args:
            metric: one of its columns.
            mode: "min" or "max".
            at: "last" or "best".
        """
        if self.status not in ("finished", "stopped"):
            return math.nan
        return reached(self.rows, metric, mode, at)


def reached(rows: list[dict[str, Any]], metric: str, mode: str, at: str) -> float:
    """The last or best finite value of a metric, NaN if there is none."""
    values = [
        float(row[metric]) for row in rows if row.get(metric) is not None and math.isfinite(row[metric])
    ]
    if not values:
        return math.nan
    return values[-1] if at == "last" else min(values) if mode == "min" else max(values)


def status_of(rows: list[dict[str, Any]], rounds: int) -> str:
    """How a run ended, by its metrics."""
    if not rows or not math.isfinite(rows[-1]["loss"]):
        return "diverged"
    return "finished" if rows[-1]["round"] >= rounds else "stopped"


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Metrics as plain rows, without what a row has not got (the loss stays, finite or not)."""
    rows: list[dict[str, Any]] = []
    for row in table.to_dict("records"):
        plain = {str(k): v.item() if isinstance(v, np.generic) else v for k, v in row.items()}
        rows.append(
            {k: v for k, v in plain.items() if k == "loss" or not (isinstance(v, float) and math.isnan(v))}
        )
    return rows
