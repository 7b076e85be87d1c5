"""A study for people: one table and one figure of several variants, each run with several seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from raysim.core.plugin import ConfigError
from raysim.report import plots
from raysim.report.tables import diverged
from raysim.report.units import duration, label, scale, shown

Runs = dict[str, list[pd.DataFrame]]
"""Metrics by variant, one table per seed."""

_PLAIN = ("runs", "diverged", "bits_up", "bits_down", "seconds")  # columns without a standard deviation


def ending(table: pd.DataFrame) -> str:
    """How one run ended, on one line."""
    last = table.iloc[-1]
    said = "diverged" if diverged(table) else f"loss {shown('loss', float(last['loss']))}"
    if "accuracy" in table and not diverged(table):
        said += f", accuracy {shown('accuracy', float(last['accuracy']))}"
    return f"{said}, {duration(float(last['seconds']))}"


def summarised(runs: Runs, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Final values of every variant: mean over its seeds, and sample standard deviation as ``<column>_sd``.

    A run that diverged has no final value: it is counted in ``diverged`` and leaves the means NaN.

    Args:
        runs: metrics by variant.
        columns: further columns of the metrics.

    Returns:
        A row per variant.

    Raises:
        ConfigError: no run has such a column.
    """
    accuracy = ["accuracy"] if any("accuracy" in table for table in _tables(runs)) else []
    names = list(dict.fromkeys(["loss", *accuracy, *columns, "bits_up", "seconds"]))
    for name in names:
        _require(runs, name)
    rows = {variant: _row(tables, names) for variant, tables in runs.items()}
    return pd.DataFrame.from_dict(rows, orient="index")


def _row(tables: list[pd.DataFrame], names: Sequence[str]) -> dict[str, float]:
    row: dict[str, float] = {"runs": len(tables), "diverged": sum(diverged(t) for t in tables)}
    for name in names:
        final = np.array([float(t[name].iloc[-1]) if name in t else math.nan for t in tables])
        if row["diverged"] and name not in _PLAIN:
            final[:] = math.nan
        row[name] = float(final.mean())
        if name not in _PLAIN:
            row[f"{name}_sd"] = float(final.std(ddof=1)) if len(final) > 1 else math.nan
    return row


def study_table(table: pd.DataFrame, title: str) -> Any:
    """A study's table for rich to print.

    Args:
        table: of ``summarised``.
        title: above it.
    """
    from rich.table import Table

    runs = int(table["runs"].max())
    spread = f"mean ± standard deviation of {runs} seeds" if runs > 1 else "one seed"
    out = Table(title=f"{title}: final values, {spread}", title_justify="left")
    out.add_column("variant", overflow="fold")
    names = [str(c) for c in table.columns if c not in ("runs", "diverged") and not str(c).endswith("_sd")]
    for name in names:
        out.add_column(label(name), justify="right")
    for variant, row in table.to_dict("index").items():
        out.add_row(str(variant), *[_cell(name, row) for name in names])
    return out


def _cell(name: str, row: dict[Any, Any]) -> str:
    """Mean and spread in one unit: "93.4 ± 0.5 %"."""
    mean, sd = float(row[name]), float(row.get(f"{name}_sd", math.nan))
    if name == "loss" and row["diverged"]:
        return (
            "diverged" if row["diverged"] == row["runs"] else f"{row['diverged']} of {row['runs']} diverged"
        )
    if not math.isfinite(mean):
        return "–"
    if not math.isfinite(sd):
        return shown(name, mean)
    divisor, unit = scale(name, abs(mean))
    mean, sd = mean / divisor, sd / divisor
    decimals = 1 if unit == "%" else max(0, 3 - math.floor(math.log10(abs(mean)))) if mean else 3
    if decimals > 7:  # too small for plain decimals
        return f"{mean:.3g} ± {sd:.1g} {unit}".rstrip()
    return f"{mean:,.{decimals}f} ± {sd:,.{decimals}f} {unit}".rstrip()


def figure(runs: Runs, pairs: Sequence[tuple[str, str]]) -> Figure:
    """A curve per variant: the mean over seeds, in a band from the least to the largest.

    Args:
        runs: metrics by variant.
        pairs: what to draw against what, a panel each.

    Returns:
        A figure that belongs to no window.

    Raises:
        ConfigError: no run has such a column.
    """
    for column in {c for pair in pairs for c in pair}:
        _require(runs, column)
    means = {variant: _over_seeds(tables, "mean") for variant, tables in runs.items()}
    height = 3.9 + 0.09 * len(runs)  # room for the legend
    out = Figure(figsize=(1.2 + 4.6 * len(pairs), height), layout="constrained")
    panels = list(out.subplots(1, len(pairs), squeeze=False)[0])
    for panel, (metric, against) in zip(panels, pairs, strict=True):
        for i, (variant, tables) in enumerate(runs.items()):
            look = plots._look(i) | {"label": variant}
            plots._draw(panel, means[variant], against, metric, means, look)
            if len(tables) > 1:
                _band(panel, tables, metric, against, means, look["color"])
        plots._finish(panel, means, against, [metric])
        _scale_freely(panel, means, metric)
    panels.sort(
        key=lambda panel: -len(panel.get_legend_handles_labels()[0])
    )  # the legend is the fullest one's
    plots._title(out, panels, list(runs))
    return out


def _band(panel: Any, tables: list[pd.DataFrame], y: str, x: str, means: Any, colour: str) -> None:
    """Least to largest value over seeds."""
    mean, low, high = (_over_seeds(tables, how) for how in ("mean", "min", "max"))
    if y in mean and x in mean:
        per_x, per_y = plots._scale(means, x)[0], plots._scale(means, y)[0]
        xs, lows, highs = (np.asarray(v, float) for v in (mean[x], low[y], high[y]))
        panel.fill_between(xs / per_x, lows / per_y, highs / per_y, color=colour, alpha=0.15, linewidth=0)


def _over_seeds(tables: list[pd.DataFrame], how: str) -> pd.DataFrame:
    """Mean, min or max over seeds, evaluation by evaluation, as far as every run came."""
    rows = min(len(table) for table in tables)
    shared = [c for c in tables[0].columns if all(c in table for table in tables)]
    stack = np.stack([table[shared].iloc[:rows].to_numpy(np.float64) for table in tables])
    return pd.DataFrame(getattr(np, how)(stack, axis=0), columns=shared)


def _scale_freely(panel: Any, means: dict[str, pd.DataFrame], metric: str) -> None:
    """A logarithmic axis for what is positive and spans more than two decades: distances, variances."""
    values = plots._all(means, [metric])
    if panel.get_yscale() == "linear" and len(values) and values.min() > 0:
        decades = float(np.log10(values.max() / values.min()))
        if decades > 2:
            plots._logarithmic(panel, decades)


def _tables(runs: Runs) -> list[pd.DataFrame]:
    return [table for tables in runs.values() for table in tables]


def _require(runs: Runs, column: str) -> None:
    """ConfigError unless some run has that column."""
    known = dict.fromkeys(str(c) for table in _tables(runs) for c in table.columns)
    if column not in known:
        raise ConfigError(f"No run of the study has a column {column!r}. Known: {', '.join(known)}.")
