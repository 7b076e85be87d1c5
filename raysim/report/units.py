"""Numbers for people: sizes, times and counts with their units, and what a column of metrics is called."""

from __future__ import annotations

import math
from collections.abc import Sequence

_LABELS = {
    "loss": "test loss",
    "train_loss": "train loss",
    "accuracy": "test accuracy",
    "round": "communication rounds",
    "bits_up": "uplink",
    "bits_down": "downlink",
    "client_updates": "client updates",
    "seconds": "time in rounds",
    "sim_seconds": "simulated time",
    "consensus": "consensus distance",
    "deviation": "gradient deviation",
    "deviation_loss": "train loss at the mean model",
    "drift": "model drift",
}
_Units = Sequence[tuple[float, float, str]]
"""Each unit with the value it is used from, and what to divide by."""

_BYTES: _Units = (
    (8e12, 8e12, "TB"),
    (8e9, 8e9, "GB"),
    (8e6, 8e6, "MB"),
    (8e3, 8e3, "kB"),
    (0.0, 8.0, "bytes"),
)
_SECONDS: _Units = ((10800, 3600, "h"), (180, 60, "min"), (1, 1, "s"), (1e-9, 1e-3, "ms"), (0, 1, "s"))
_COUNTS: _Units = ((1e7, 1e6, "millions"), (1e4, 1e3, "thousands"), (0, 1, ""))


def label(column: str) -> str:
    """What a column of a run's metrics is called: "bits_up" is "uplink"."""
    return _LABELS.get(column, column.replace("_", " "))


def higher_is_better(metric: str) -> bool:
    """True for accuracies; losses, distances and costs are better when they are small."""
    return "accuracy" in metric


def scale(column: str, largest: float) -> tuple[float, str]:
    """Divisor and unit that bring a column to readable numbers.

    Args:
        column: of a run's metrics.
        largest: largest value to be shown.

    Returns:
        What to divide by, and the unit ("" for a plain number).
    """
    if "accuracy" in column:
        return 0.01, "%"
    if column.startswith("bits"):
        return _unit(_BYTES, largest)
    if column.endswith("seconds"):
        return _unit(_SECONDS, largest)
    return _unit(_COUNTS, largest) if column == "client_updates" else (1.0, "")


def axis_label(column: str, unit: str) -> str:
    """Label of an axis: "uplink, MB"."""
    return f"{label(column)}, {unit}" if unit else label(column)


def shown(column: str, value: float) -> str:
    """A value of a column with its unit: "1.25 MB", "93.4 %", "0.213"."""
    if not math.isfinite(value):
        return "not finite"
    if column in ("round", "client_updates"):
        return f"{value:,.0f}"
    divisor, unit = scale(column, abs(value))
    return f"{_digits(value / divisor, unit)} {unit}".rstrip()


def data_size(bits: float) -> str:
    """Bits as kB, MB, GB (powers of 1000)."""
    return shown("bits", bits)


def duration(seconds: float) -> str:
    """Seconds as ms, s, min or h."""
    return shown("seconds", seconds)


def rate(per_second: float) -> str:
    """A number of things per second: "13,400", "2.53"."""
    return f"{per_second:,.0f}" if per_second >= 100 else f"{per_second:.3g}"


def _digits(value: float, unit: str) -> str:
    if unit == "%":
        return f"{value:.1f}"
    if value == 0 or unit == "bytes":
        return f"{value:.0f}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if unit else f"{value:#.4g}"


def _unit(units: _Units, largest: float) -> tuple[float, str]:
    """Divisor and name of the first unit that ``largest`` fills."""
    return next((divisor, name) for least, divisor, name in units if largest >= least)
