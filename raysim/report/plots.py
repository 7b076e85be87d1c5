"""Learning curves: any metric against rounds, bits or time, one line per run.

Figures are matplotlib objects made without pyplot: no window, no global state, safe in any thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from raysim.core.plugin import ConfigError
from raysim.report.units import axis_label, label, scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

# Ten colours told apart with any colour vision: Petroff, Accessible Color Sequences for Data Visualization,
# 2021, https://arxiv.org/abs/2107.02270; further runs repeat them in another line style.
_COLOURS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300",
    "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
_STYLES = ("-", "--", ":", "-.")
_BROKEN: dict[str, Any] = {"linewidth": 1.2, "linestyle": (0, (3, 1.5))}
_MARKED = 12  # points of a line up to which each gets a marker
_DECADE = 10.0  # ratio of largest to smallest loss above which the axis is logarithmic


def curves(runs: dict[str, DataFrame], metric: str, against: list[str]) -> Figure:
    """One metric of several runs, a panel for each quantity it is drawn against.

    Args:
        runs: metrics by name of run, one row per evaluated round.
        metric: the column on the vertical axes.
        against: columns on the horizontal axes: "round", "bits_up", "client_updates", "seconds".

    Returns:
        A figure that belongs to no window; ``savefig`` writes it.

    Raises:
        ConfigError: a run has no such column, naming those there are.
    """
    for column in (metric, *against):
        require(runs, column)
    figure, panels = _panels(len(against), sharey=True)
    for panel, column in zip(panels, against, strict=True):
        for i, (name, table) in enumerate(runs.items()):
            _draw(panel, table, column, metric, runs, _look(i) | {"label": name})
        _finish(panel, runs, column, [metric])
        panel.label_outer(remove_inner_ticks=False)
    _title(figure, panels, list(runs))
    return figure


def overview(runs: dict[str, DataFrame]) -> Figure:
    """The learning curves of a run: loss, on test and training data, and accuracy if it has one.

    Args:
        runs: metrics by name of run, usually of one.

    Returns:
        A figure that belongs to no window.
    """
    names = [m for m in ("loss", "accuracy") if any(m in table for table in runs.values())]
    figure, panels = _panels(len(names))
    for panel, metric in zip(panels, names, strict=True):
        drawn = [metric]
        for i, (name, table) in enumerate(runs.items()):
            look = _look(i)
            if metric == "loss" and "train_loss" in table:
                drawn = ["loss", "train_loss"]
                thin = look | _BROKEN | {"marker": None}
                _draw(panel, table, "round", "train_loss", runs, thin)
            _draw(panel, table, "round", metric, runs, look | {"label": name})
        _finish(panel, runs, "round", drawn)
        if len(drawn) > 1:
            _explain_styles(panel)
    _title(figure, panels, list(runs))
    return figure


def require(runs: dict[str, DataFrame], column: str) -> None:
    """ConfigError unless every run has that column of numbers."""
    for name, table in runs.items():
        known = [str(c) for c in table.columns]
        if column not in known:
            raise ConfigError(
                f"Run {name} has no column {column!r}. Known: {', '.join(known) or 'none yet'}."
            )


def _panels(number: int, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    number = max(number, 1)
    figure = Figure(figsize=(1.2 + 4.6 * number, 3.9), layout="constrained")
    return figure, list(figure.subplots(1, number, squeeze=False, sharey=sharey)[0])


def _look(i: int) -> dict[str, Any]:
    """Colour and line style of the i-th run."""
    style = _STYLES[i // len(_COLOURS) % len(_STYLES)]
    return {"color": _COLOURS[i % len(_COLOURS)], "linestyle": style, "linewidth": 1.9}


def _draw(
    panel: Axes, table: DataFrame, x: str, y: str, runs: dict[str, DataFrame], look: dict[str, Any]
) -> None:
    """One line; a cross on the main one (it has a label) where the run stopped being finite."""
    if y not in table or x not in table:
        return
    xs, ys = _numbers(table[x]) / _scale(runs, x)[0], _numbers(table[y]) / _scale(runs, y)[0]
    there = np.isfinite(ys) & np.isfinite(xs)
    if not there.any():
        return
    few = there.sum() <= _MARKED
    panel.plot(xs[there], ys[there], **({"marker": "o" if few else None, "markersize": 4} | look))
    if "label" in look and "loss" in table and not np.isfinite(_numbers(table["loss"])[-1]):
        panel.plot(xs[there][-1:], ys[there][-1:], "X", color=look["color"], markersize=10, zorder=3)
        panel.annotate(
            "diverged", (xs[there][-1], ys[there][-1]), (6, 6), textcoords="offset points", fontsize="small"
        )


def _numbers(series: Any) -> np.ndarray:
    return np.asarray(series, np.float64)


def _scale(runs: dict[str, DataFrame], column: str) -> tuple[float, str]:
    """One unit for all runs of a figure."""
    values = _all(runs, [column])
    return scale(column, float(np.abs(values).max()) if len(values) else 1.0)


def _all(runs: dict[str, DataFrame], columns: Sequence[str]) -> np.ndarray:
    """Every finite value of those columns."""
    parts = [_numbers(table[c]) for table in runs.values() for c in columns if c in table]
    values = np.concatenate(parts) if parts else np.empty(0)
    return values[np.isfinite(values)]


def _finish(panel: Axes, runs: dict[str, DataFrame], x: str, drawn: list[str]) -> None:
    """Labels, scales and a quiet grid."""
    from matplotlib.ticker import MaxNLocator

    values = _all(runs, drawn)
    values = values if len(values) else np.ones(1)
    name = "loss" if len(drawn) > 1 else axis_label(drawn[0], _scale(runs, drawn[0])[1])
    panel.set(xlabel=axis_label(x, _scale(runs, x)[1]), ylabel=name)
    if "loss" in drawn[0] and values.min() > 0 and values.max() / values.min() > _DECADE:
        _logarithmic(panel, decades=float(np.log10(values.max() / values.min())))
    ends = [float(_all({name: table}, [x]).max(initial=0)) for name, table in runs.items() if x in table]
    ends = [end for end in ends if end > 0]
    if ends and max(ends) / min(ends) > _DECADE:  # the cheapest run would be a line at the edge
        first = min(_all(runs, [x])[_all(runs, [x]) > 0])
        _logarithmic(panel, decades=float(np.log10(max(ends) / first)), axis="x")
    if x == "round":
        panel.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    panel.grid(color="0.9", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def _logarithmic(panel: Axes, decades: float, axis: Literal["x", "y"] = "y") -> None:
    """A logarithmic axis with plain numbers, 0.1 0.2 0.5 1, or powers of ten where it spans many."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    panel.set_xscale("log", nonpositive="mask") if axis == "x" else panel.set_yscale("log")
    which = panel.xaxis if axis == "x" else panel.yaxis
    which.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1,)))
    which.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if decades < 2.5:
        which.set_minor_locator(NullLocator())


def _explain_styles(panel: Axes) -> None:
    """What full and broken lines are, in grey, as colour stands for the run."""
    from matplotlib.lines import Line2D

    full = Line2D([], [], color="0.3", linewidth=1.9, label=label("loss"))
    broken = Line2D(
        [], [], color="0.3", linewidth=1.2, linestyle=(0, (3, 1.5)), label="train loss, in local steps"
    )
    panel.legend(handles=[full, broken], frameon=False, fontsize="small")


def _title(figure: Figure, panels: list[Axes], names: list[str]) -> None:
    """The run's name above the figure, or a legend of all runs below it."""
    if len(names) == 1:
        figure.suptitle(names[0], fontsize="large")
        return
    handles, labels = panels[0].get_legend_handles_labels()
    width = max([len(text) for text in labels], default=1)
    columns = max(1, min(len(labels), int(18 * len(panels) * 3 / (width + 8))))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
