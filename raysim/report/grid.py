"""A study of variants under conditions for people: two-way tables and heat maps of final values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from raysim.report.study import Runs, summarised
from raysim.report.units import axis_label, higher_is_better, scale


@dataclass(frozen=True)
class Grid:
    """Every variant under every condition.

    Args:
        conditions: names of the rows.
        variants: names of the columns.
    """

    conditions: tuple[str, ...]
    variants: tuple[str, ...]

    def cells(self) -> Iterator[tuple[str, str, str]]:
        """(label of the run, condition, variant), row by row."""
        return ((f"{v}, {c}", c, v) for c in self.conditions for v in self.variants)


def final(runs: Runs, grid: Grid, metric: str) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Mean over seeds, sample standard deviation and number of runs that diverged: conditions by variants.

    Args:
        runs: metrics by label.
        grid: what the labels are made of.
        metric: column of the metrics; where a run diverged there is no final value.

    Raises:
        ConfigError: no run has such a column.
    """
    table = summarised(runs, [metric]).loc[[name for name, _, _ in grid.cells()]]
    shape = (len(grid.conditions), len(grid.variants))
    parts = (table[name].to_numpy().reshape(shape) for name in (metric, f"{metric}_sd", "diverged"))
    mean, sd, diverged = (pd.DataFrame(p, grid.conditions, grid.variants) for p in parts)
    return mean, sd, diverged


def tables(runs: Runs, grid: Grid, metrics: Sequence[str], title: str) -> Any:
    """A two-way table of each metric for rich to print; in every row the best mean is bold.

    Args:
        runs: metrics by label.
        grid: what the labels are made of.
        metrics: columns of the metrics.
        title: above each table.
    """
    from rich.console import Group

    return Group(*[_table(runs, grid, metric, title) for metric in dict.fromkeys(metrics)])


def _table(runs: Runs, grid: Grid, metric: str, title: str) -> Any:
    from rich.table import Table

    (mean, sd, diverged), seeds = final(runs, grid, metric), max(len(tables) for tables in runs.values())
    (divisor, unit), spread = _scale(mean, metric), f"mean ± standard deviation of {seeds} seeds"
    out = Table(
        title=f"{title}: final {axis_label(metric, unit)}, {spread if seeds > 1 else 'one seed'}",
        title_justify="left",
    )
    out.add_column("condition", overflow="fold")
    for variant in grid.variants:
        out.add_column(variant, justify="right", overflow="fold")
    decimals = _decimals(mean / divisor)
    for row in range(len(mean)):
        means, sds = mean.iloc[row] / divisor, sd.iloc[row] / divisor
        texts = [_text(m, s, decimals) for m, s in zip(means, sds, strict=True)]
        lost = diverged.iloc[row]
        texts = [
            f"{n} of {seeds} diverged" if 0 < n < seeds else "diverged" if n else t
            for t, n in zip(texts, lost, strict=True)
        ]
        best = means.max() if higher_is_better(metric) else means.min()
        out.add_row(
            grid.conditions[row],
            *[f"[bold]{t}[/bold]" if m == best else t for t, m in zip(texts, means, strict=True)],
        )
    return out


def figure(runs: Runs, grid: Grid, metrics: Sequence[str]) -> Figure:
    """A heat map of each metric's means, conditions by variants; brighter is better, grey has diverged.

    Args:
        runs: metrics by label.
        grid: what the labels are made of.
        metrics: columns of the metrics, a panel each.

    Returns:
        A figure that belongs to no window.
    """
    metrics = list(dict.fromkeys(metrics))
    names = 0.075 * max(len(c) for c in grid.conditions), 0.075 * max(len(v) for v in grid.variants)
    width, height = 1.2 + names[0] + 0.62 * len(grid.variants), 0.6 + names[1] + 0.3 * len(grid.conditions)
    out = Figure(figsize=(width * len(metrics), height), layout="constrained")
    for panel, metric in zip(out.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        mean = final(runs, grid, metric)[0]
        divisor, unit = _scale(mean, metric)
        image = _drawn(panel, mean / divisor, higher_is_better(metric))
        bar = out.colorbar(image, ax=panel, shrink=0.8)
        bar.set_label(f"final {axis_label(metric, unit)}")
    return out


def _drawn(panel: Any, mean: pd.DataFrame, high: bool) -> Any:
    """The matrix in colours, each mean written into its cell."""
    values = np.ma.masked_invalid(mean.to_numpy(np.float64))
    low, top = (float(values.min()), float(values.max())) if values.count() else (0.0, 1.0)
    norm = LogNorm(low, top) if low > 0 and top / low > 100 else None
    panel.set_facecolor("0.85")
    image = panel.imshow(values, cmap="viridis" if high else "viridis_r", norm=norm, aspect="auto")
    panel.set_xticks(range(mean.shape[1]), mean.columns, rotation=40, ha="right", rotation_mode="anchor")
    panel.set_yticks(range(mean.shape[0]), mean.index)
    panel.tick_params(length=0)
    decimals = _decimals(mean)
    for (i, j), value in np.ndenumerate(values.filled(math.nan)):
        bright = sum(image.cmap(image.norm(value))[:3]) > 1.4 if math.isfinite(value) else True
        text = f"{value:.{decimals}f}" if math.isfinite(value) else "diverged"
        look = {"color": "black" if bright else "white", "size": 8 if math.isfinite(value) else 6}
        panel.text(j, i, text, ha="center", va="center", **look)
    return image


def _scale(mean: pd.DataFrame, metric: str) -> tuple[float, str]:
    return scale(metric, _largest(mean))


def _decimals(mean: pd.DataFrame) -> int:
    """Decimals that show three digits of the largest value."""
    largest = _largest(mean)
    return min(6, max(0, 2 - math.floor(math.log10(largest)))) if largest else 0


def _text(mean: float, sd: float, decimals: int) -> str:
    spread = f" ± {sd:.{decimals}f}" if math.isfinite(sd) else ""
    return f"{mean:.{decimals}f}{spread}" if math.isfinite(mean) else "–"


def _largest(mean: pd.DataFrame) -> float:
    values = np.abs(mean.to_numpy(np.float64))
    return float(values[np.isfinite(values)].max(initial=0.0))
