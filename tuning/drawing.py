"""What every figure of a sweep has in common: values in one unit, lines with bands, axes, the best one's ring."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm

from raysim.report import plots as looks
from raysim.report.units import axis_label, scale, shown
from tuning import table as tables
from tuning.plan import label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tuning.plan import Plan
    from tuning.records import Run


class Drawing:
    """A sweep ready to be drawn, with everything in the metric's unit.

    Args:
        runs: of the sweep.
        plan: the sweep.
    """

    def __init__(self, runs: list[Run], plan: Plan) -> None:
        self.runs, self.plan, self.metric = runs, plan, plan.block.metric
        self.table = tables.summarised(runs, plan)
        finite = [abs(v) for v in self.table[self.metric] if math.isfinite(v)]
        self.divisor, unit = scale(self.metric, max(finite, default=1.0))
        at = "final" if plan.block.at == "last" else "best"
        self.label = f"{at} {axis_label(self.metric, unit)}"
        values: dict[int, list[float]] = {}
        for run in runs:
            values.setdefault(run.trial, []).append(self.value(run))
        self.cap = self._cap() / self.divisor
        self.off = self.table[self.metric] / self.divisor > self.cap
        self.table["_mean"] = np.minimum(self.table[self.metric] / self.divisor, self.cap)
        for name, end in (("_low", min), ("_high", max)):
            self.table[name] = [min(end(values[trial]), self.cap) for trial in self.table["trial"]]
        self.lost = self.table["diverged"] + self.table["failed"] > 0

    def _cap(self) -> float:
        """Twice what the metric is before any training: what is worse than that is only bad, however much."""
        start = [run.rows[0].get(self.metric, math.nan) for run in self.runs if run.rows]
        start = [value for value in start if math.isfinite(value) and value > 0]
        return 2 * max(start) if start and self.plan.mode == "min" else math.inf

    def value(self, run: Run) -> float:
        """What a run came to, in the figure's unit."""
        return run.value(self.metric, self.plan.mode, self.plan.block.at) / self.divisor

    def numeric(self, field: str) -> bool:
        """Whether a field's values are numbers."""
        return pd.api.types.is_numeric_dtype(self.table[field]) and self.table[field].dtype != bool

    @property
    def colours(self) -> str:
        """Colours in which bright is good."""
        return "viridis" if self.plan.mode == "max" else "viridis_r"

    @property
    def norm(self) -> LogNorm | None:
        """Logarithmic colours for what spans more than a decade."""
        values = self.table.loc[~self.lost, "_mean"].dropna()
        wide = len(values) > 0 and values.min() > 0 and values.max() / values.min() > 10
        return LogNorm(values.min(), values.max()) if wide else None

    def placed(self, field: str) -> Any:
        """A function from a field's values to places on its axis."""
        if self.numeric(field):
            return lambda values: np.asarray(values, np.float64)
        order = list(dict.fromkeys(self.table.sort_values("trial")[field].astype(str)))
        return lambda values: np.array([order.index(str(v)) for v in values], np.float64)

    def drawn(self, panel: Any, table: pd.DataFrame, field: str, i: int, name: str = "") -> None:
        """One line with its band; hollow where the scheduler stopped runs, a cross where one diverged."""
        place, colour = self.placed(field), looks._COLOURS[i % len(looks._COLOURS)]
        table = table.iloc[np.argsort(place(table[field]), kind="stable")]
        gone = self.lost.loc[table.index]
        sound, lost = table[~gone & np.isfinite(table["_mean"])], table[gone]
        xs = place(sound[field])
        style = "o-" if self.numeric(field) else "o"
        panel.plot(xs, sound["_mean"], style, color=colour, markersize=4, linewidth=1.9, label=name or None)
        if sound["runs"].max() > 1 and self.numeric(field):
            panel.fill_between(xs, sound["_low"], sound["_high"], color=colour, alpha=0.15, linewidth=0)
        elif sound["runs"].max() > 1:
            panel.vlines(xs, sound["_low"], sound["_high"], color=colour, alpha=0.4)
        off = sound[self.off.loc[sound.index]]
        panel.plot(place(off[field]), off["_mean"], "^", color=colour, markersize=8)
        early = sound[sound["stopped"] > 0]
        panel.plot(
            place(early[field]),
            early["_mean"],
            "o",
            color=colour,
            markerfacecolor="white",
            markersize=4,
            zorder=3,
        )
        if len(lost):  # at the edge that stands for bad
            y = [0.97 if self.plan.mode == "min" else 0.03] * len(lost)
            at = panel.get_xaxis_transform()
            panel.plot(place(lost[field]), y, "X", color=colour, markersize=7, transform=at, clip_on=False)
            panel.annotate(
                "diverged" if not (lost["failed"] > 0).any() else "diverged or failed",
                (place(lost[field])[0], y[0]), (-8, 0), xycoords=at, textcoords="offset points", ha="right",
                va="center", fontsize="small", color="0.3",
            )  # fmt: skip

    def framed(self, panel: Any, field: str) -> None:
        """Labels, scales and a quiet grid."""
        panel.set(xlabel=field, ylabel=self.label)
        values = self.table.loc[~self.lost, "_mean"].dropna()
        if len(values) and values.min() > 0 and values.max() / values.min() > 10:
            looks._logarithmic(panel, float(np.log10(values.max() / values.min())))
        if not self.numeric(field):
            order = list(dict.fromkeys(self.table.sort_values("trial")[field].astype(str)))
            panel.set_xticks(range(len(order)), order, rotation=25, ha="right", rotation_mode="anchor")
        elif self.plan.spaces[field].log:
            xs = self.table[field]
            looks._logarithmic(panel, float(np.log10(xs.max() / xs.min())), axis="x")
        quiet(panel)

    def crowned(self, panel: Any, field: str, worded: bool = True) -> None:
        """A ring around the best configuration, in words too."""
        best = self.table.iloc[0]
        if not math.isfinite(best["_mean"]):
            return
        x = self.placed(field)([best[field]])[0]
        panel.plot([x], [best["_mean"]], "o", color="black", markersize=10, markerfacecolor="none", zorder=4)
        if worded and self.numeric(field):
            panel.margins(y=0.15)
            words = f"best: {label({field: best[field]})}, {shown(self.metric, best[self.metric])}"
            up = self.plan.mode == "max"
            panel.annotate(
                words, (x, best["_mean"]), (0, 14 if up else -14), textcoords="offset points", ha="center",
                va="bottom" if up else "top", fontsize="small",
            )  # fmt: skip

    def titled(self, out: Figure) -> Figure:
        """The sweep's name above."""
        seeds = len(self.plan.seeds)
        out.suptitle(self.plan.name + (f" ({seeds} seeds)" if seeds > 1 else ""), fontsize="large")
        return out


def quiet(panel: Any) -> None:
    """A grid that stays behind the data, and no box."""
    panel.grid(color="0.9", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
