"""Tables for people: how a run ended, and how runs compare."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from raysim.core.plugin import ConfigError
from raysim.report.plots import require
from raysim.report.units import data_size, duration, higher_is_better, label, rate, shown

if TYPE_CHECKING:
    from rich.console import RenderableType

    from raysim.result import Result

_COSTS = {
    "round": "rounds",
    "bits_up": "uplink",
    "bits_down": "downlink",
    "seconds": "time",
    "sim_seconds": "simulated time",
}
"""What a run spends, and its heading in a table."""


def closing(result: Result) -> RenderableType:
    """How a run ended: status, losses, speed, traffic and where everything is.

    Args:
        result: of the run.

    Returns:
        Something that rich prints.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in _closing_rows(result):
        table.add_row(name, Text(value))
    return Group("", table)


def _closing_rows(result: Result) -> list[tuple[str, str]]:
    metrics = result.metrics
    rows = [("status", result.status)]
    if metrics.empty:
        return rows
    last = metrics.iloc[-1]
    rows.append(("rounds", f"{int(last['round']):,} of {result.simulation.rounds:,}"))
    for name in ("loss", "accuracy"):
        if name in metrics:
            final, best, at = summary(metrics, name)
            text = f"{shown(name, final)}, best {shown(name, best)} after round {at}"
            rows.append((label(name), text if math.isfinite(best) else shown(name, final)))
    updates = float(last["client_updates"])
    if updates > 0 and result.seconds > 0:
        rows.append(("client updates", f"{updates:,.0f}, {rate(updates / result.seconds)} per second"))
    for name in ("bits_up", "bits_down"):
        total = float(last[name])
        each = f", {data_size(total / updates)} per client update" if updates else ""
        rows.append((label(name), data_size(total) + each))
    rows.append(("time in rounds", duration(result.seconds)))
    if result.folder is not None:
        rows.append(("folder", str(result.folder)))
        figure = f"{result.folder}/figures/learning_curve.png"
        rows += [("figure", figure)] if "://" in figure or Path(figure).exists() else []
    return rows


def advice(result: Result) -> str:
    """What to do about a run that did not end well, or ""; a line to copy starts with two spaces."""
    kept = f" Everything written so far is kept in {result.folder}." if result.folder else ""
    if result.status == "diverged":
        return (
            "The run diverged: the model or a loss is no longer finite. Try a smaller step size (a third, "
            "say), fewer local steps or a gentler server optimiser." + kept
        )
    if result.status == "stopped":
        again = f" Continue with:\n  raysim resume {result.folder}" if result.folder else ""
        return f"The run was stopped before its last round.{again}"
    if "loss" in result.metrics and summary(result.metrics, "loss")[2] == 0:
        return "The test loss never fell below that of the initial model. Try a smaller step size."
    return ""


def summary(metrics: pd.DataFrame, metric: str) -> tuple[float, float, int]:
    """Final value, best value and the round it was reached in; NaN where nothing is finite.

    Args:
        metrics: of a run, one row per evaluated round.
        metric: one of its columns.
    """
    values = metrics[metric].to_numpy(np.float64)
    finite = np.flatnonzero(np.isfinite(values))
    if not len(finite):
        return math.nan, math.nan, 0
    best = finite[np.argmax(values[finite]) if higher_is_better(metric) else np.argmin(values[finite])]
    final = math.nan if diverged(metrics) else float(values[finite[-1]])
    return final, float(values[best]), int(metrics["round"].iloc[best])


def diverged(metrics: pd.DataFrame) -> bool:
    """Whether a run's last loss is not finite."""
    return "loss" in metrics and len(metrics) > 0 and not math.isfinite(float(metrics["loss"].iloc[-1]))


def comparison(runs: dict[str, pd.DataFrame], metric: str = "loss") -> pd.DataFrame:
    """Runs side by side: final and best value, and what each spent to reach a target that all of them reach.

    The target is the worst of the runs' best values, runs that diverged left aside.

    Args:
        runs: metrics by name of run.
        metric: what to compare by.

    Returns:
        A row per run, with columns final, best, target and, at the first evaluation that reaches the target,
        round, bits_up, bits_down and seconds (NaN for a run that never does).

    Raises:
        ConfigError: a run has no such metric, or nothing in it yet.
    """
    require(runs, metric)
    sound = [table for table in runs.values() if not diverged(table)] or list(runs.values())
    best = [summary(table, metric)[1] for table in sound]
    best = [value for value in best if math.isfinite(value)]
    if not best:
        raise ConfigError(f"None of these runs has a finite {metric} yet, so there is nothing to compare.")
    target = min(best) if higher_is_better(metric) else max(best)
    rows = {name: _compared(table, metric, target) for name, table in runs.items()}
    return pd.DataFrame.from_dict(rows, orient="index")


def _compared(table: pd.DataFrame, metric: str, target: float) -> dict[str, float]:
    final, best, _ = summary(table, metric)
    values = table[metric].to_numpy(np.float64)
    with np.errstate(invalid="ignore"):
        there = values >= target if higher_is_better(metric) else values <= target
    reached = np.flatnonzero(there)
    costs = [c for c in _COSTS if c in table]
    spent = {c: float(table[c].iloc[reached[0]]) if len(reached) else math.nan for c in costs}
    return {"final": final, "best": best, "target": target, **spent}


def comparison_table(table: pd.DataFrame, metric: str) -> Any:
    """A comparison for rich to print.

    Args:
        table: of ``comparison``.
        metric: what was compared.
    """
    from rich.table import Table

    target = f"{'≥' if higher_is_better(metric) else '≤'} {shown(metric, float(table['target'].iloc[0]))}"
    out = Table(title=f"{label(metric)}, and what each run spent to reach {target}", title_justify="left")
    out.add_column("run", overflow="fold")
    costs = [str(c) for c in table.columns if c not in ("final", "best", "target")]
    for name in ("final", "best", *(_COSTS[c] for c in costs)):
        out.add_column(name, justify="right")
    for name, row in table.to_dict("index").items():
        final = shown(metric, row["final"]) if math.isfinite(row["final"]) else "diverged"
        values = [final, shown(metric, row["best"])]
        values += [shown(c, row[c]) if math.isfinite(row[c]) else "never" for c in costs]
        out.add_row(str(name), *values)
    return out
