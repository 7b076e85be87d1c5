"""The figure of a sweep: a line over one field, a heat map over two, the best of every value where there are more."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from raysim.report import plots as looks
from tuning.drawing import Drawing, quiet
from tuning.plan import names
from tuning.spaces import Listed

if TYPE_CHECKING:
    from tuning.plan import Plan
    from tuning.records import Run

_LINES = 8  # values of a field that may be lines of their own
_CELLS = 20  # along an axis of a heat map, up to which each mean is written into its cell


def figure(runs: list[Run], plan: Plan) -> Figure:
    """What the metric came to over what was varied.

    Args:
        runs: of the sweep.
        plan: the sweep.

    Returns:
        A figure that belongs to no window.
    """
    drawing = Drawing(runs, plan)
    fields = list(plan.spaces)
    if len(fields) == 1:
        return _line(drawing, fields[0])
    if len(fields) == 2:
        if all(isinstance(plan.spaces[field], Listed) for field in fields):
            return _map(drawing, fields)
        listed = [f for f in fields if isinstance(plan.spaces[f], Listed)]
        if not listed:
            return _cloud(drawing, fields)
        if drawing.table[listed[0]].nunique() <= _LINES:
            return _lines(drawing, next(f for f in fields if f not in listed), listed[0])
    return _multiples(drawing, fields)


def _line(drawing: Drawing, field: str) -> Figure:
    """The mean over one field, in a band from the least to the largest seed."""
    out = Figure(figsize=(6.4, 4.2), layout="constrained")
    panel = out.subplots()
    drawing.drawn(panel, drawing.table, field, 0)
    drawing.framed(panel, field)
    drawing.crowned(panel, field)
    return drawing.titled(out)


def _lines(drawing: Drawing, field: str, by: str) -> Figure:
    """A line over one field for every value of another."""
    out = Figure(figsize=(6.8, 4.6), layout="constrained")
    panel = out.subplots()
    short = names(list(drawing.plan.spaces))[by]
    for i, (value, part) in enumerate(drawing.table.groupby(by, sort=True)):
        drawing.drawn(panel, part, field, i, f"{short}={_text(value)}")
    drawing.framed(panel, field)
    panel.legend(frameon=False, fontsize="small")
    return drawing.titled(out)


def _multiples(drawing: Drawing, fields: list[str]) -> Figure:
    """A panel per field: every configuration, and a line through the best of each value."""
    out = Figure(figsize=(1.0 + 3.6 * len(fields), 3.9), layout="constrained")
    panels = out.subplots(1, len(fields), squeeze=False, sharey=True)[0]
    for panel, field in zip(panels, fields, strict=True):
        place = drawing.placed(field)
        sound = drawing.table[~drawing.lost & np.isfinite(drawing.table["_mean"])]
        panel.plot(place(sound[field]), sound["_mean"], "o", color="0.75", markersize=4)
        best = sound.groupby(field)["_mean"].agg("min" if drawing.plan.mode == "min" else "max")
        if drawing.table[field].nunique() < len(drawing.table):  # else the line would go through every point
            panel.plot(place(best.index.to_series()), best.to_numpy(), "o-", color=looks._COLOURS[0])
        drawing.framed(panel, field)
        drawing.crowned(panel, field, worded=False)
        panel.label_outer(remove_inner_ticks=False)
    return drawing.titled(out)


def _map(drawing: Drawing, fields: list[str]) -> Figure:
    """A heat map of the means; brighter is better, grey has diverged."""
    x, y = (
        sorted(fields, key=lambda f: not drawing.numeric(f))
        if len(set(map(drawing.numeric, fields))) > 1
        else fields
    )
    order = {f: [_coded(drawing.table[f], v) for v in drawing.plan.spaces[f].every()] for f in (x, y)}  # type: ignore[union-attr]
    grids = [
        drawing.table.assign(_lost=drawing.lost).pivot_table(
            index=y, columns=x, values=v, dropna=False, sort=False
        )
        for v in ("_mean", "_lost")
    ]
    mean, lost = (
        g.reindex(index=_kept(order[y], g.index), columns=_kept(order[x], g.columns)) for g in grids
    )
    width, height = 2.6 + 0.62 * mean.shape[1], 1.9 + 0.42 * mean.shape[0]
    out = Figure(figsize=(max(width, 5.0), max(height, 3.4)), layout="constrained")
    panel = out.subplots()
    image = _coloured(drawing, panel, mean, lost)
    panel.set(xlabel=x, ylabel=y)
    panel.set_xticks(range(mean.shape[1]), [_text(v) for v in mean.columns])
    panel.set_yticks(range(mean.shape[0]), [_text(v) for v in mean.index])
    panel.tick_params(length=0)
    out.colorbar(image, ax=panel).set_label(drawing.label)
    return drawing.titled(out)


def _coloured(drawing: Drawing, panel: Any, mean: pd.DataFrame, lost: pd.DataFrame) -> Any:
    """The matrix in colours, each mean written into its cell."""
    values = np.ma.masked_invalid(mean.to_numpy(np.float64))
    panel.set_facecolor("0.85")
    image = panel.imshow(values, cmap=drawing.colours, norm=drawing.norm, aspect="auto", origin="lower")
    if max(mean.shape) > _CELLS:
        return image
    largest = float(np.abs(values).max()) if values.count() else 1.0
    written = lambda value: _digits(value, value if drawing.norm else largest)
    best = values.max() if drawing.plan.mode == "max" else values.min()
    for (i, j), value in np.ndenumerate(values.filled(math.nan)):
        gone = lost.to_numpy(np.float64)[i, j]
        text = written(value) if math.isfinite(value) else "diverged" if gone > 0 else ""
        text = f"> {text}" if value >= drawing.cap else text
        bright = not math.isfinite(value) or sum(image.cmap(image.norm(value))[:3]) > 1.4
        look = {"color": "black" if bright else "white", "size": 8 if math.isfinite(value) else 6}
        panel.text(j, i, text, ha="center", va="center", weight="bold" if value == best else "normal", **look)
    return image


def _cloud(drawing: Drawing, fields: list[str]) -> Figure:
    """Every configuration as a point between two fields, its mean as colour."""
    out = Figure(figsize=(6.4, 4.6), layout="constrained")
    panel, (x, y) = out.subplots(), fields
    sound = drawing.table[~drawing.lost]
    look = {
        "c": sound["_mean"],
        "cmap": drawing.colours,
        "norm": drawing.norm,
        "edgecolors": "0.3",
        "linewidths": 0.5,
    }
    points = panel.scatter(sound[x], sound[y], s=60, **look)
    gone = drawing.table[drawing.lost]
    if len(gone):
        panel.plot(gone[x], gone[y], "X", color="0.5", markersize=8, label="diverged")
        panel.legend(frameon=False, fontsize="small")
    panel.set(xlabel=x, ylabel=y)
    for field, axis in ((x, "x"), (y, "y")):
        if drawing.plan.spaces[field].log:
            getattr(panel, f"set_{axis}scale")("log")
    quiet(panel)
    out.colorbar(points, ax=panel).set_label(drawing.label)
    return drawing.titled(out)


def _kept(order: list[Any], there: Any) -> list[Any]:
    return [value for value in order if value in list(there)]


def _coded(column: Any, value: Any) -> Any:
    """A value as the table has it: words where not all are numbers."""
    return str(value) if column.dtype == object and value is not None else value


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _digits(value: float, like: float) -> str:
    """As many decimals as show three digits of another value."""
    decimals = max(0, 2 - math.floor(math.log10(abs(like)))) if like else 2
    return f"{value:.{decimals}f}" if decimals <= 5 and abs(like) < 1e4 else f"{value:.1e}"
