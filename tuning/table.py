"""Tables of a sweep: a row per run, a row per configuration with the best first, and both for people."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from raysim.report.units import duration, label, scale, shown

if TYPE_CHECKING:
    from tuning.plan import Plan
    from tuning.records import Run

_HUGE = 1e7  # losses from which on digits say nothing
_COMPLETE, _PARTIAL, _STOPPED, _DIVERGED, _FAILED = range(5)


def trials(runs: list[Run], plan: Plan) -> pd.DataFrame:
    """A row per run: configuration, seed, values, how it ended, the metric, and the last row of its metrics."""
    rows = []
    for run in sorted(runs, key=lambda run: run.key):
        head = {
            "trial": run.trial,
            "seed": run.seed,
            **run.values,
            "status": run.status,
            "rounds_done": run.round,
        }
        value = run.value(plan.block.metric, plan.mode, plan.block.at)
        last = {k: v for k, v in (run.rows[-1] if run.rows else {}).items() if k != "round"}
        rows.append(head | {"value": value} | last | {"wall_seconds": run.seconds, "error": run.error})
    return _typed(pd.DataFrame(rows), list(plan.spaces))


def curves(runs: list[Run]) -> pd.DataFrame:
    """The metrics of all runs, one under the other, with the configuration's number and the seed."""
    parts = [
        {"trial": run.trial, "seed": run.seed, **row}
        for run in sorted(runs, key=lambda r: r.key)
        for row in run.rows
    ]
    return pd.DataFrame(parts)


def summarised(runs: list[Run], plan: Plan) -> pd.DataFrame:
    """A row per configuration, best first: mean and sample standard deviation of the metric over seeds.

    Configurations with all their seeds and rounds come first, then those with seeds still to run, those that the
    scheduler stopped (further before less far), those that diverged with any seed, which have no mean, and those that
    failed.

    Args:
        runs: of the sweep.
        plan: the sweep.
    """
    by_trial: dict[int, list[Run]] = {}
    for run in runs:
        by_trial.setdefault(run.trial, []).append(run)
    rows = [_row(trial, group, plan) for trial, group in by_trial.items()]
    rows.sort(key=lambda row: row.pop("_rank"))
    return _typed(pd.DataFrame(rows), list(plan.spaces))


def _row(trial: int, runs: list[Run], plan: Plan) -> dict[str, Any]:
    block = plan.block
    values = np.array([run.value(block.metric, plan.mode, block.at) for run in runs])
    counts = {
        status: sum(run.status == status for run in runs) for status in ("stopped", "diverged", "failed")
    }
    whole = not counts["diverged"] and not counts["failed"]
    mean = float(values.mean()) if whole else math.nan
    sd = float(values.std(ddof=1)) if whole and len(values) > 1 else math.nan
    rounds = min(run.round for run in runs)
    kind = (
        _FAILED
        if counts["failed"]
        else _DIVERGED
        if counts["diverged"] or not math.isfinite(mean)
        else _COMPLETE
    )
    if kind == _COMPLETE and (counts["stopped"] or len(runs) < len(plan.seeds)):
        kind = _STOPPED if counts["stopped"] else _PARTIAL
    finite = values[np.isfinite(values)]
    order = mean if math.isfinite(mean) else float(finite.mean()) if len(finite) else math.inf
    sign = -1 if plan.mode == "max" and math.isfinite(order) else 1
    lost = counts["diverged"] + counts["failed"]
    return {
        "trial": trial,
        **runs[-1].values,
        block.metric: mean,
        f"{block.metric}_sd": sd,
        "runs": len(runs),
        **counts,
        "rounds_done": rounds,
        "wall_seconds": sum(run.seconds for run in runs),
        "_rank": (kind, lost, -rounds if kind == _STOPPED else 0, sign * order, trial),
    }


def _typed(table: pd.DataFrame, fields: list[str]) -> pd.DataFrame:
    """Columns that a Parquet file can hold: numbers where all are numbers, words otherwise."""
    for field in fields:
        column = table.get(field)
        if column is not None and column.dtype == object:
            table[field] = [None if value is None else str(value) for value in column]
    return table


# ---- for people ------------------------------------------------------------------------------------------------


def line(run: Run, plan: Plan) -> str:
    """How a run ended: "lr=0.1, seed 0: loss 0.213, 1.2 s"."""
    from tuning.plan import label as words

    who = words(run.values) + (f", seed {run.seed}" if len(plan.seeds) > 1 else "")
    metric = plan.block.metric
    value = _shown(metric, run.value(metric, plan.mode, plan.block.at))
    said = {
        "finished": f"{label(metric)} {value}",
        "stopped": f"stopped after round {run.round}, {label(metric)} {value}",
        "diverged": f"diverged in round {run.round}",
        "failed": "failed",
    }[run.status]
    return f"{who}: {said}, {duration(run.seconds)}"


def printed(table: pd.DataFrame, plan: Plan, so_far: bool = False) -> Any:
    """Configurations for rich to print, best first.

    Args:
        table: of ``summarised``, or its head.
        plan: the sweep.
        so_far: whether runs are still to come.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from tuning.plan import names

    metric, short = plan.block.metric, names(list(plan.spaces))
    spread = f"mean ± standard deviation of {len(plan.seeds)} seeds" if len(plan.seeds) > 1 else "one seed"
    at = "final" if plan.block.at == "last" else "best"
    better = "larger" if plan.mode == "max" else "smaller"
    title = f"{plan.name}: {at} {label(metric)} ({better} is better), {spread}" + (
        ", so far" if so_far else ""
    )
    out = Table()
    for path in plan.spaces:
        out.add_column(short[path], justify="right")
    for name in (label(metric), "rounds done", "time"):
        out.add_column(name, justify="right")
    for i, row in enumerate(table.to_dict("records")):
        values = [_value(row[path]) for path in plan.spaces]
        cells = [
            *values,
            _cell(metric, row, len(plan.seeds)),
            f"{row['rounds_done']:,}",
            duration(row["wall_seconds"]),
        ]
        out.add_row(*cells, style="bold" if i == 0 and math.isfinite(row[metric]) else None)
    return Group(Text(title, style="italic"), out)  # a table's own title would be as narrow as the table


def _shown(metric: str, value: float) -> str:
    """A value with its unit; a loss beyond all bounds in short."""
    return f"{value:.2e}" if _HUGE <= abs(value) < math.inf else shown(metric, value)


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cell(metric: str, row: dict[Any, Any], seeds: int) -> str:
    """Mean and spread in one unit, or what became of it."""
    mean, sd = float(row[metric]), float(row[f"{metric}_sd"])
    for status in ("failed", "diverged"):
        if row[status]:
            return status if row[status] == row["runs"] else f"{row[status]} of {row['runs']} {status}"
    if not math.isfinite(mean):
        return "–"
    ended = (
        " (stopped)"
        if row["stopped"]
        else f" ({row['runs']} of {seeds} seeds)"
        if row["runs"] < seeds
        else ""
    )
    if not math.isfinite(sd) or abs(mean) >= _HUGE:
        return _shown(metric, mean) + ended
    divisor, unit = scale(metric, abs(mean))
    mean, sd = mean / divisor, sd / divisor
    decimals = 1 if unit == "%" else max(0, min(6, 3 - math.floor(math.log10(abs(mean))))) if mean else 3
    return f"{mean:,.{decimals}f} ± {sd:,.{decimals}f} {unit}".rstrip() + ended
