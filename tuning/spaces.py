"""Search spaces: which values the fields of an experiment take in a sweep.

    local.optimizer.lr: {log_uniform: [1e-3, 1]}      # drawn, uniform in the logarithm
    local.optimizer.momentum: {uniform: [0, 0.99]}    # drawn
    local.batch_size: {grid: [8, 16, 32]}             # every one; a plain list [8, 16, 32] is the same
    local.steps: {log_grid: [1, 64, 7]}               # 7 values from 1 to 64, each the same multiple of the last
    rule: {choice: [Averaging, {name: FedProx, mu: 0.1}]}        # drawn

Grids multiply; every combination of theirs gets the same ``samples`` draws of what is drawn. A draw is a pure function
of (seed, field, number of the draw), so more samples add to those there are.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from raysim import spec
from raysim.core import streams
from raysim.core.plugin import ConfigError, Plugin, shown

DIGITS = 4  # of a drawn number: a step size is never needed more exactly, and a table is read more easily


@dataclass(frozen=True)
class Listed(Plugin):
    """Values one by one: all of them (a grid), or drawn (a choice).

    Args:
        values: at least one, each different.
        drawn: whether one is drawn, with equal chances.
        log: whether they belong on a logarithmic axis.
    """

    values: tuple[Any, ...]
    drawn: bool = False
    log: bool = False

    @property
    def first(self) -> Any:
        """A value of the space."""
        return self.values[0]

    def draw(self, u: float) -> Any:
        """The value at a share ``u`` of the list, 0 <= u < 1."""
        return self.coded(self.values[int(u * len(self.values))])

    def every(self) -> list[Any]:
        """All values, coded."""
        return [self.coded(value) for value in self.values]

    def coded(self, value: Any) -> Any:
        """The value as it stands in tables: numbers and words as they are, anything else in words."""
        return value if value is None or isinstance(value, (bool, int, float, str)) else _words(value)

    def meant(self, coded: Any) -> Any:
        """The value that a coded one stands for."""
        alike = (v for v in self.values if type(self.coded(v)) is type(coded) and self.coded(v) == coded)
        return next(alike, coded)

    def written(self) -> dict[str, Any]:
        """As YAML holds it."""
        return {"choice" if self.drawn else "grid": list(self.values)}


@dataclass(frozen=True)
class Range(Plugin):
    """Numbers between two ends, drawn.

    Args:
        low: least value.
        high: largest value.
        log: uniform in the logarithm.
        whole: only whole numbers.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False
    drawn = True

    @property
    def first(self) -> float:
        """A value of the space."""
        return int(self.low) if self.whole else self.low

    def draw(self, u: float) -> float:
        """The number at a share ``u`` of the range, 0 <= u < 1."""
        if self.whole and not self.log:
            return min(int(self.low + u * (self.high - self.low + 1)), int(self.high))
        value = self._at(u)
        return self.rounded(value)

    def _at(self, u: float) -> float:
        if self.log:
            return math.exp(math.log(self.low) + u * (math.log(self.high) - math.log(self.low)))
        return self.low + u * (self.high - self.low)

    def rounded(self, value: float) -> float:
        """The nearest number that is in the range and short to write, with more digits where the range is narrow."""
        narrow = max(abs(self.low), abs(self.high)) / (self.high - self.low)
        digits = DIGITS + int(math.log10(max(narrow, 1.0)))
        value = round(value) if self.whole else float(f"{value:.{digits}g}")
        low, high = (int(self.low), int(self.high)) if self.whole else (self.low, self.high)
        return min(max(value, low), high)

    def coded(self, value: Any) -> Any:
        """As it is."""
        return value

    def meant(self, coded: Any) -> Any:
        """As it is."""
        return coded

    def written(self) -> dict[str, Any]:
        """As YAML holds it."""
        ends = [int(v) if self.whole else v for v in (self.low, self.high)]
        return {"log_uniform" if self.log else "uniform": ends}


Space = Listed | Range


# ---- reading ---------------------------------------------------------------------------------------------------


def read(path: str, written: Any, whole: Callable[[bool], bool]) -> Space:
    """The space written for a field.

    Args:
        path: of the field, for messages.
        written: a mapping with one of the kinds above, or a list.
        whole: whether the field wants whole numbers, where it is told whether the ends are whole ones.

    Raises:
        ConfigError: what was got, and how a space is written.
    """
    if isinstance(written, (Listed, Range)):
        return written
    if isinstance(written, (list, tuple)):
        written = {"grid": written}
    if not isinstance(written, dict) or len(written) != 1:
        raise ConfigError(f"sweep.over.{path} must be one of {_kinds()}, got {shown(written)}.")
    kind, values = next(iter(written.items()))
    if kind not in KINDS:
        raise ConfigError(f"sweep.over.{path}: there is no space {kind!r}. Write one of {_kinds()}.")
    if not isinstance(values, (list, tuple)):
        raise ConfigError(f"sweep.over.{path}: {kind} needs a list, got {shown(values)}.")
    try:
        return KINDS[kind](tuple(values), whole)
    except ConfigError as error:
        raise ConfigError(f"sweep.over.{path}: {kind} {error}") from None


def _kinds() -> str:
    return (
        "{grid: [...]}, {log_grid: [low, high, number]}, {choice: [...]}, {uniform: [low, high]}, "
        "{log_uniform: [low, high]}"
    )


def _listed(values: tuple[Any, ...], drawn: bool) -> Listed:
    if not values:
        raise ConfigError("is empty. Name at least one value.")
    coded = [json.dumps(value) for value in Listed(values, drawn).every()]
    twin = next((value for i, value in enumerate(coded) if value in coded[:i]), None)
    if twin is not None:
        raise ConfigError(f"has {twin} twice.")
    numbers = [v for v in values if _number(v)]
    log = len(numbers) == len(values) > 2 and min(numbers) > 0 and max(numbers) / min(numbers) > 10
    return Listed(values, drawn, log)


def _range(values: tuple[Any, ...], whole: Callable[[bool], bool], log: bool) -> Range:
    low, high = _ends(values, 2, "two numbers, [low, high]", log)
    return _between(low, high, whole, log)


def _between(low: float, high: float, whole: Callable[[bool], bool], log: bool) -> Range:
    """A range; of whole numbers only those that are in it."""
    if not whole(isinstance(low, int) and isinstance(high, int)):
        return Range(float(low), float(high), log)
    if math.ceil(low) >= math.floor(high):
        raise ConfigError(f"needs two whole numbers in its range, got {shown([low, high])}.")
    return Range(float(math.ceil(low)), float(math.floor(high)), log, whole=True)


def _log_grid(values: tuple[Any, ...], whole: Callable[[bool], bool]) -> Listed:
    low, high = _ends(values, 3, "[low, high, number of values]", log=True)
    number = values[2]
    if not isinstance(number, int) or isinstance(number, bool) or number < 2:
        raise ConfigError(f"needs a number of values, at least 2, got {shown(number)}.")
    range_ = _between(low, high, whole, log=True)
    points = [range_.rounded(low * (high / low) ** (i / (number - 1))) for i in range(number)]
    return Listed(tuple(dict.fromkeys(points)), log=True)


def _ends(values: tuple[Any, ...], number: int, form: str, log: bool) -> tuple[Any, Any]:
    if len(values) != number or not all(_number(v) for v in values):
        raise ConfigError(f"needs {form}, got {shown(list(values))}.")
    low, high = values[:2]
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f"needs its low end below its high end, got {shown([low, high])}.")
    if log and low <= 0:
        raise ConfigError(f"needs a low end above 0, got {shown(low)}. Use uniform where 0 is a value.")
    return low, high


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


KINDS: dict[str, Callable[[tuple[Any, ...], Callable[[bool], bool]], Space]] = {
    "grid": lambda values, _: _listed(values, drawn=False),
    "choice": lambda values, _: _listed(values, drawn=True),
    "uniform": lambda values, whole: _range(values, whole, log=False),
    "log_uniform": lambda values, whole: _range(values, whole, log=True),
    "log_grid": _log_grid,
}


def _words(value: Any) -> str:
    """A plug-in or a mapping in short: "FedProx(mu=0.1)". A plug-in is coded as the mapping that a file has for it."""
    if isinstance(value, Plugin):
        value = spec._plain(value)
    if isinstance(value, dict):
        fields = ", ".join(f"{k}={_words(v)}" for k, v in value.items() if k != "name")
        name = value.get("name", "")
        return f"{name}({fields})" if fields else str(name)
    return json.dumps(value, default=repr)


# ---- configurations --------------------------------------------------------------------------------------------


def points(spaces: dict[str, Space], samples: int, seed: int) -> list[dict[str, Any]]:
    """The configurations of a sweep: coded values by field, each configuration once.

    Args:
        spaces: by field.
        samples: draws for each combination of the grids; with nothing to draw there is one.
        seed: of the draws.
    """
    listed = {
        path: space.every() for path, space in spaces.items() if isinstance(space, Listed) and not space.drawn
    }
    drawn = {path: space for path, space in spaces.items() if path not in listed}
    found: dict[str, dict[str, Any]] = {}
    for values in itertools.product(*listed.values()):
        for i in range(samples if drawn else 1):
            point = dict(zip(listed, values, strict=True))
            point |= {path: space.draw(share(seed, path, i)) for path, space in drawn.items()}
            point = {path: point[path] for path in spaces}
            found.setdefault(json.dumps(point), point)
    return list(found.values())


def share(seed: int, path: str, i: int) -> float:
    """The number in [0, 1) behind the ``i``-th draw of a field."""
    return float(streams.uniform(streams.key(seed, "sweep", path, i), 1))
