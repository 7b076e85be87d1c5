"""The figure of a probe of scaling: what the target takes against the size, the regimes shaded, the best step sizes."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from raysim.core.plugin import ConfigError
from raysim.report import plots
from raysim.report.units import axis_label, scale
from tuning.regimes import fits
from tuning.regimes.report import COSTS, format_size, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tuning.regimes.finding import Finding
    from tuning.regimes.probe import Regimes

_AXES = {"batch_size": "batch size", "clients": "clients", "local_steps": "local steps"}
_SHADES = ("#e3f0fa", "#fff3dc", "#f3e3df")  # linear scaling, diminishing returns, saturation
_REGIMES = ("linear\nscaling", "diminishing\nreturns", "saturation")
_HEIGHT, _ROW = 0.045, 0.06  # of the marks, as shares of the panel
_MEASURED, _THEORY, _NOISE = plots._COLOURS[0], plots._COLOURS[2], plots._COLOURS[4]


def require_format(path: Path) -> None:
    """Refuse a file whose ending is no image format."""
    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise ConfigError(f"The ending of {path} is no image format. Known: {', '.join(known)}.")


def figure(regimes: Regimes) -> Figure:
    """A column per variant: above, the cost of the target with its fit, below, the best step size.

    Args:
        regimes: a probe that has run.

    Returns:
        A figure that belongs to no window.
    """
    number = len(regimes.findings)
    out = Figure(figsize=(1.0 + 5.0 * number, 6.2), layout="constrained")
    panels = out.subplots(2, number, squeeze=False, sharex="col", height_ratios=(2.4, 1))
    for (label, found), upper, lower in zip(regimes.findings.items(), panels[0], panels[1], strict=True):
        _costs(upper, regimes, found)
        _rates(lower, regimes, found)
        if number > 1:
            upper.set_title(label)
    for panel in panels[:, 1:].flat:
        panel.set_ylabel("")
    if number == 1:
        out.suptitle(regimes.name)
    _same_height(list(panels[0]))
    if regimes.block.along == "local_steps":
        _bits(panels[0, -1], regimes)
    handles = {h.get_label(): h for panel in panels.flat for h in panel.get_legend_handles_labels()[0]}
    out.legend(
        handles=list(handles.values()),
        loc="outside lower center",
        ncols=3 if number == 1 else 5,
        frameon=False,
    )
    return out


def _costs(panel: Axes, regimes: Regimes, found: Finding) -> None:
    """Iterations (or rounds) to the target, fit, theory and noise scale."""
    block, values = regimes.block, sorted(found.best)
    _axis(panel, block.values)
    goal = f"{block.metric.replace('_', ' ')} {block.target:g}".replace(
        "loss", "test loss", block.metric == "loss"
    )
    panel.set_ylabel(f"{COSTS[block.along]} to {goal}")
    panel.set_yscale("log")
    if not values:
        panel.text(0.5, 0.5, "target not reached", ha="center", va="center", transform=panel.transAxes)
        return
    cost = [regimes.cost(found, v) for v in values]
    mean = np.array([c.mean() for c in cost])
    reach = np.abs(np.array([[c.min(), c.max()] for c in cost]).T - mean)
    look: dict[str, Any] = {"color": _MEASURED, "zorder": 4}
    look["fmt"] = "o" if found.fit is not None and found.fit.follows else "o-"
    panel.errorbar(values, mean, reach, markersize=5.5, capsize=2.5, label="measured, range of seeds", **look)
    _decades(panel, mean)
    grid = np.geomspace(block.values[0], block.values[-1], 200)
    if found.theory is not None and found.theory.exact:
        shape = found.theory.critical(found.simulation.local.optimizer)
        amplitude = math.exp(float(np.mean(np.log(mean / fits.scaling(np.array(values), shape)))))
        curve = amplitude * fits.scaling(grid, shape)
        panel.plot(grid, curve, "--", color=_THEORY, linewidth=1.9, label="theory (shape)", zorder=3)
    if found.fit is not None and found.fit.follows:
        look = {"color": _MEASURED, "linewidth": 1.6, "alpha": 0.75, "zorder": 3}
        panel.plot(grid, found.fit.curve(grid), label="fit", **look)
        _shade(panel, found.fit, block.values)
        _theoretical(panel, found, block.values)
    if len(found.noise):
        _noise_scale(panel, regimes, found)


def _noise_scale(panel: Axes, regimes: Regimes, found: Finding) -> None:
    """A dotted line at the median noise scale, where the axis is a batch size."""
    median = float(np.median(found.noise))
    if regimes.block.along == "batch_size" and regimes.block.values[0] < median < regimes.block.values[-1]:
        panel.axvline(
            median, linestyle=":", color=_NOISE, linewidth=1.8, label="gradient noise scale", zorder=2
        )


def _shade(panel: Axes, fit: fits.Fit, values: tuple[int, ...]) -> None:
    """Regimes as bands; critical sizes at their borders, with intervals as bars below."""
    low, high = _limits(values)
    once = len(fit.critical) == 1 or not fit.apart
    sizes = [min(max(size, low), high) for size in (fit.critical[:1] if once else fit.critical)]
    shades, names = (_SHADES[::2], _REGIMES[::2]) if once else (_SHADES, _REGIMES)
    edges = [low, *sizes, high]
    for i, (a, b) in enumerate(itertools.pairwise(edges)):
        panel.axvspan(a, b, color=shades[i], linewidth=0, zorder=0)
        if math.log(b / a) > 0.13 * math.log(high / low):
            place: dict[str, Any] = {"ha": "center", "va": "top", "fontsize": "small", "color": "0.35"}
            panel.text(math.sqrt(a * b), 0.98, names[i], transform=panel.get_xaxis_transform(), **place)
    symbols = ["m*"] if len(fit.critical) == 1 else ["m1*, m2*"] if once else ["m1*", "m2*"]
    for i, (size, symbol) in enumerate(zip(fit.critical, symbols, strict=False)):
        bounds = [fit.intervals[i]] if not (once and len(fit.critical) == 2) else list(fit.intervals)
        ends = min(b[0] for b in bounds), max(b[1] for b in bounds)
        _mark(panel, size, ends, symbol, _HEIGHT + _ROW * i, (low, high))


def _theoretical(panel: Axes, found: Finding, values: tuple[int, ...]) -> None:
    """The sizes of theory, hollow, beside those of the fit."""
    if found.theory is None or not found.theory.exact or found.fit is None:
        return
    sizes, (low, high) = found.theory.critical(found.simulation.local.optimizer), _limits(values)
    rows = range(len(sizes)) if found.fit.apart else [0] * len(sizes)
    look: dict[str, Any] = {"color": _THEORY, "markersize": 8, "fillstyle": "none", "markeredgewidth": 1.6}
    for row, size in zip(rows, sizes, strict=True):
        if low <= size <= high:
            panel.plot(
                [size], [_HEIGHT + _ROW * row], "D", transform=panel.get_xaxis_transform(), zorder=7, **look
            )


def _mark(
    panel: Axes,
    size: float,
    ends: tuple[float, float],
    symbol: str,
    height: float,
    limits: tuple[float, float],
) -> None:
    """A critical size: a bar over its interval with a diamond, at a height of the panel."""
    low, high = (min(max(v, limits[0]), limits[1]) for v in ends)
    across = panel.get_xaxis_transform()
    panel.plot([low, high], [height] * 2, color="0.25", linewidth=2.2, transform=across, zorder=5)
    if limits[0] <= size <= limits[1]:
        panel.plot([size], [height], "D", color="0.25", markersize=5.5, transform=across, zorder=6)
    inside = size if size < limits[1] else limits[1]
    left = inside > math.sqrt(limits[0] * limits[1])
    shift, align = (-6, "right") if left else (6, "left")
    text = f"{_mathematical(symbol)} = {format_size(size)}"
    at = (low if left else high, height)
    look: dict[str, Any] = {"fontsize": "small", "zorder": 8, "ha": align, "va": "center"}
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.6, "pad": 1.0}
    panel.annotate(text, at, (shift, 0), xycoords=across, textcoords="offset points", bbox=box, **look)


def _mathematical(symbol: str) -> str:
    return {"m*": "$m^*$", "m1*": "$m_1^*$", "m2*": "$m_2^*$"}.get(symbol, "$m_1^* = m_2^*$")


def _rates(panel: Axes, regimes: Regimes, found: Finding) -> None:
    """The best step sizes, and 1 / L_m where theory speaks."""
    values = sorted(found.best)
    _axis(panel, regimes.block.values)
    panel.set(xlabel=_AXES[regimes.block.along], ylabel="best step size")
    panel.set_yscale("log")
    if not values:
        return
    rates = np.array([found.best[v][0] for v in values])
    panel.plot(values, rates, "o-", color=_MEASURED, markersize=4.5, linewidth=1.4)
    if found.theory is not None and found.theory.exact:
        grid = np.geomspace(regimes.block.values[0], regimes.block.values[-1], 100)
        lr = np.array([found.theory.lr(v) for v in grid])
        panel.plot(grid, lr, "--", color=_THEORY, linewidth=1.9, label="theory, $1/L_m$")
        rates = np.concatenate([rates, lr])
    _decades(panel, rates)


def _axis(panel: Axes, values: tuple[int, ...]) -> None:
    """A logarithmic axis with the values themselves as ticks, every other one where they are many."""
    panel.set_xscale("log")
    panel.set_xlim(*_limits(values))
    shown = values[:: 1 + len(values) // 9]
    panel.set_xticks(shown, [f"{v:g}" for v in shown])
    panel.set_xticks([], minor=True)
    panel.grid(color="0.85", linewidth=0.7)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def _limits(values: tuple[int, ...]) -> tuple[float, float]:
    edge = (values[-1] / values[0]) ** 0.04
    return values[0] / edge, values[-1] * edge


def _decades(panel: Axes, values: np.ndarray) -> None:
    """Plain numbers on the vertical axis, and some room."""
    decades = float(np.log10(values.max() / values.min())) if len(values) else 1.0
    plots._logarithmic(panel, decades)


def _bits(panel: Axes, regimes: Regimes) -> None:
    """The uplink that so many rounds take, on the right; where all variants send as much in a round."""
    rows = table(regimes).dropna(subset="rounds")
    per_round = (rows["bits_up"] / rows["rounds"]).to_numpy()
    if not len(per_round) or np.ptp(per_round) > 0.01 * per_round.mean():
        return
    divisor, unit = scale("bits_up", float(rows["bits_up"].max()))
    factor = float(per_round.mean()) / divisor
    times, by = (lambda rounds: np.multiply(rounds, factor)), (lambda bits: np.divide(bits, factor))
    right = panel.secondary_yaxis("right", functions=(times, by))
    right.set_ylabel(axis_label("bits_up", unit))
    right.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    right.yaxis.set_minor_locator(NullLocator())


def _same_height(panels: list[Axes]) -> None:
    """One vertical range for all variants, with room for the marks below and the names above."""
    low = min(panel.dataLim.y0 if panel.lines else math.inf for panel in panels)
    limits = [panel.get_ylim() for panel in panels if panel.lines]
    if not limits or not math.isfinite(low):
        return
    bottom, top = min(a for a, _ in limits), max(b for _, b in limits)
    span = top / bottom
    for panel in panels:
        panel.set_ylim(bottom / span**0.18, top * span**0.12)
