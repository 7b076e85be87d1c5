"""A probe of scaling for people: its table, and in words what to use."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from raysim.report.units import data_size
from tuning.regimes.finding import Finding
from tuning.regimes.fits import Fit

if TYPE_CHECKING:
    from tuning.regimes.probe import Regimes

NAMES = {"batch_size": "batch", "clients": "clients", "local_steps": "local steps"}
COSTS = {"batch_size": "iterations", "clients": "iterations", "local_steps": "rounds"}
_MORE = {
    "batch_size": "doubling the batch",
    "clients": "doubling the clients",
    "local_steps": "doubling the local steps",
}
_BOUND = {"high": "≥ ", "low": "≤ "}  # of a best step size at the end of its search
_KNEE, _FIRST_KNEE = (
    -0.4,
    -0.7,
)  # slopes of log cost between saturation and linear; diminishing returns and linear
_LITTLE = 0.25  # share of the cost that a doubling saves


def table(regimes: Regimes) -> pd.DataFrame:
    """A row per variant and value: best step size, and what the target took, mean and ``_sd`` over seeds.

    Columns: variant, the axis, lr, iterations, rounds, examples (of all clients together) and bits_up, of which those
    without ``_sd`` follow from the rounds; not a number where no step size reached the target with every seed.
    """
    rows = []
    for label, found in regimes.findings.items():
        for value in regimes.block.values:
            rows.append({"variant": label, regimes.block.along: value, **_costs(regimes, found, value)})
    return pd.DataFrame(rows)


def _costs(regimes: Regimes, found: Finding, value: int) -> dict[str, float]:
    names = ("lr", "iterations", "iterations_sd", "rounds", "rounds_sd", "examples", "bits_up")
    if value not in found.best:
        return dict.fromkeys(names, math.nan)
    lr, rounds, tables = found.best[value]
    iterations, last = regimes.iterations(found, value), tables[0].iloc[-1]
    local = found.simulation.local
    clients = value if regimes.block.along == "clients" else len(found.shares_N)
    batch = (
        value if regimes.block.along == "batch_size" else local.batch_size or found.shares_N.sum() / clients
    )
    cohort, bits = (float(last[c]) / float(last["round"]) for c in ("client_updates", "bits_up"))
    values = (
        lr, iterations.mean(), _sd(iterations), rounds.mean(), _sd(rounds), iterations.mean() * batch * cohort,
        rounds.mean() * bits,
    )  # fmt: skip
    return {name: float(number) for name, number in zip(names, values, strict=True)}


def _sd(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else math.nan


def printed(regimes: Regimes) -> Any:
    """The table, for rich to print."""
    from rich.table import Table

    block = regimes.block
    spread = f"mean ± standard deviation of {block.seeds} seeds" if block.seeds > 1 else "one seed"
    title = f"{regimes.name}: to {block.metric.replace('_', ' ')} {block.target:g}, {spread}"
    out = Table(title=title, title_justify="left")
    several = len(regimes.findings) > 1
    heads = [
        *(["variant"] if several else []),
        NAMES[block.along],
        "best step size",
        "iterations",
        "rounds",
        "examples",
    ]
    for head in [*heads, "uplink"]:
        out.add_column(head, justify="left" if head == "variant" else "right")
    for row in table(regimes).to_dict("records"):
        cells = [str(row["variant"])] if several else []
        found, value = regimes.findings[row["variant"]], row[block.along]
        cells += [f"{value:,}", _rate(found, value, 3) if value in found.best else "not reached"]
        cells += [_with_spread(row[c], row[f"{c}_sd"]) for c in ("iterations", "rounds")]
        cells += [f"{row['examples']:,.0f}" if math.isfinite(row["examples"]) else "–"]
        out.add_row(*cells, data_size(row["bits_up"]) if math.isfinite(row["bits_up"]) else "–")
    return out


def _with_spread(mean: float, sd: float) -> str:
    if not math.isfinite(mean):
        return "–"
    digits = 0 if mean >= 100 else 1
    return f"{mean:,.{digits}f}" + (f" ± {sd:,.{digits}f}" if math.isfinite(sd) else "")


# ---- in words --------------------------------------------------------------------------------------------------


def text(regimes: Regimes) -> str:
    """What to use, and what is known of the regimes: a paragraph per variant."""
    several = len(regimes.findings) > 1
    return "\n".join(
        (f"{label}: " if several else "") + " ".join(_sentences(regimes, found))
        for label, found in regimes.findings.items()
    )


def _sentences(regimes: Regimes, found: Finding) -> list[str]:
    values = sorted(found.best)
    if not values:
        return [
            "No step size reached the target. Raise max_rounds, begin from a smaller step size, widen steps, or choose "
            "an easier target."
        ]
    if found.fit is not None and found.fit.follows:
        use = _recommended(found.fit, values)
        said = [_advice(regimes, found, found.fit, use), _diminishing(regimes, found, found.fit, use)]
        said += [_sizes(found.fit), _end(found.fit, values[-1])]
    else:
        said = [_no_regimes(regimes, found, values), _trade(regimes, found, values)]
    return [s for s in [*said, _ends(found), _theory(found), _noise(found)] if s]


def _recommended(fit: Fit, values: Sequence[int]) -> int:
    """The last value that the one before it gains from: of two sizes all but linearly, of one a quarter a doubling."""
    two = len(fit.critical) == 2 and fit.apart
    use = values[0]
    for before, value in itertools.pairwise(values):
        if fit.slope(before, value) > (_FIRST_KNEE if two else _KNEE):
            break
        use = value
    return use


def _advice(regimes: Regimes, found: Finding, fit: Fit, use: int) -> str:
    """The value to use, and what it takes to get there."""
    axis, cost, first = regimes.block.along, COSTS[regimes.block.along], min(found.best)
    start, there = (float(regimes.cost(found, v).mean()) for v in (first, use))
    said = f"Use {_counted(axis, use)} with step size {_rate(found, use)}"
    if use == first:
        later = [v for v in found.best if v > use]
        why = f"the next value tried, {min(later)}, is already beyond linear scaling"
        if 1 - 2 ** fit.slope(use) < _LITTLE:
            why = f"{_MORE[axis]} saves little from the start"
        return f"{said}: {why} ({start:,.0f} {cost})."
    per_doubling = (there / start) ** (1 / math.log2(use / first))
    kept = "about halves" if per_doubling < 0.55 else f"takes {per_doubling:.2f} times"
    said += f": up to here {_MORE[axis]} {kept} the {cost}, from {start:,.0f} at {first} to {there:,.0f}"
    if axis == "batch_size":
        said += f", for {there * use / start / first:.2g} times the examples"
    return said + "."


def _no_regimes(regimes: Regimes, found: Finding, values: Sequence[int]) -> str:
    """Why no critical size is told."""
    needed = regimes.sizes(found) + 2
    if found.fit is None:
        return (
            f"No regimes: too few values for a fit, {len(values)} reached the target and {needed} are needed."
        )
    if regimes.block.seeds == 1:
        return "No regimes: with one seed the measurements scatter too much, or they follow another curve."
    return f"No regimes: the {COSTS[regimes.block.along]} do not follow a curve with a critical size."


def _trade(regimes: Regimes, found: Finding, values: Sequence[int]) -> str:
    """What is saved and spent along values where no regimes are to be seen."""
    first, last, along = values[0], values[-1], regimes.block.along
    before, after = (_costs(regimes, found, v) for v in (first, last))
    cost, rate = COSTS[along], _rate(found, first)
    if first == last:
        return f"Only {_counted(along, first)} did, in {before[cost]:,.0f} {cost} with step size {rate}."
    each = lambda name: (after[name] / before[name]) ** (1 / math.log2(last / first))
    span = f"batch {first} to {last}" if along == "batch_size" else f"{first} to {last} {NAMES[along]}"
    bits, examples = (
        f"{shown(before[c])} to {shown(after[c])}"
        for c, shown in (("bits_up", data_size), ("examples", "{:,.0f}".format))
    )
    return (
        f"From {span} the {cost} go from {before[cost]:,.0f} to {after[cost]:,.0f}, {each(cost):.2f} times for each "
        f"doubling, and the examples {each('examples'):.2f} times, with step sizes from {rate} to {_rate(found, last)}"
        f". Choose by what is dear: the uplink goes from {bits}, the examples from {examples}."
    )


def _diminishing(regimes: Regimes, found: Finding, fit: Fit, use: int) -> str:
    """What the regime between two critical sizes still gives."""
    between = [v for v in found.best if max(use, fit.critical[0]) < v <= fit.critical[-1] * 1.05]
    if len(fit.critical) == 1 or not fit.apart or not between:
        return ""
    last = max(between)
    costs = [float(regimes.cost(found, v).mean()) for v in (use, last)]
    per_doubling = (costs[1] / costs[0]) ** (1 / math.log2(last / use))
    return (
        f"On to {last} with step size {_rate(found, last)} returns diminish: each doubling takes "
        f"{per_doubling:.2f} times the {COSTS[regimes.block.along]}, down to {costs[1]:,.0f}."
    )


def _counted(along: str, value: int) -> str:
    """A value in words: "batch 4", "1 client"."""
    if along == "batch_size":
        return f"batch {value}"
    return f"{value} {NAMES[along] if value > 1 else NAMES[along][:-1]}"


def _rate(found: Finding, value: int, digits: int = 2) -> str:
    """The best step size of a value, and whether the search ended there."""
    return f"{_BOUND.get(found.edges.get(value, ''), '')}{found.best[value][0]:.{digits}g}"


def _ends(found: Finding) -> str:
    """Says where a better step size may lie beyond those tried."""
    where = ", ".join(str(v) for v in sorted(found.edges))
    return (
        f"At {where} the best step size is the last that was tried on its side: begin nearer."
        if where
        else ""
    )


def _sizes(fit: Fit) -> str:
    """The critical sizes with their intervals."""
    between = lambda low, high: f"({format_size(low)} to {format_size(high)})"
    if not fit.apart:
        ends = min(low for low, _ in fit.intervals), max(high for _, high in fit.intervals)
        one = f"about {format_size(fit.critical[0])} {between(*ends)}"
        return (
            f"Critical size with {fit.level:.0%} interval: {one}; one or two, the measurements do not tell."
        )
    names = ["m*"] if len(fit.critical) == 1 else ["m1*", "m2*"]
    parts = [
        f"{name} = {format_size(size)} {between(*ends)}"
        for name, size, ends in zip(names, fit.critical, fit.intervals, strict=True)
    ]
    s = "s" * (len(parts) > 1)
    return f"Critical size{s} with {fit.level:.0%} interval{s}: {' and '.join(parts)}."


def _end(fit: Fit, last: int) -> str:
    """Whether the end of the gain was seen."""
    slope = fit.slope(last)
    if slope < -0.7:
        return f"At {last} the gain is still all but linear: larger values may pay."
    gain = 1 - 2**slope
    if slope < -0.25:
        return f"At {last} doubling still saves {gain:.0%}."
    return f"At {last} it is saturated: doubling saves {gain:.0%}."


def _theory(found: Finding) -> str:
    if found.theory is None:
        return ""
    values = " and ".join(format_size(v) for v in found.theory.critical(found.simulation.local.optimizer))
    if found.theory.exact:
        return f"Theory, from the training data's constants: {values}."
    return f"Least squares on the network's linearisation at the start would have {values}."


def _noise(found: Finding) -> str:
    if not len(found.noise):
        return f"No gradient noise scale: {found.no_noise}" if found.no_noise else ""
    low, mid, high = (format_size(v) for v in np.quantile(found.noise, (0.1, 0.5, 0.9)))
    return f"Gradient noise scale along the run: {mid} examples ({low} to {high})."


def format_size(size: float) -> str:
    """Three digits at most; a critical size out of sight is "∞"."""
    if not math.isfinite(size):
        return "∞"
    return f"{size:,.0f}" if size >= 100 else f"{size:.2g}" if size < 10 else f"{size:.0f}"
