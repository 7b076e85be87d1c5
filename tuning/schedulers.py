"""Schedulers: which trials of a sweep end before their last round, or go on with other values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from raysim import spec
from raysim.core.plugin import ConfigError, Count, Plugin, Positive, Probability, shown


@dataclass(frozen=True)
class Asha(Plugin):
    """Asynchronous successive halving: at rounds grace, grace r, grace r^2, ... only the best 1/r go on.

    Paper: Li, Jamieson, Rostamizadeh, Gonina, Hardt, Recht, Talwalkar, A System for Massively Parallel Hyperparameter
    Tuning, 2020, https://arxiv.org/abs/1810.05934

    Args:
        grace: rounds that every trial gets; a tenth of them if not given.
        reduction: r, above 1.
    """

    grace: Count | None = None
    reduction: Annotated[float, Field(gt=1)] = 3.0


@dataclass(frozen=True)
class Median(Plugin):
    """Ends a trial whose best value so far is worse than the median of the others' running means.

    Paper: Golovin, Solnik, Moitra, Kochanski, Karro, Sculley, Google Vizier, 2017,
    https://doi.org/10.1145/3097983.3098043

    Args:
        grace: rounds that every trial gets; a tenth of them if not given.
    """

    grace: Count | None = None


@dataclass(frozen=True)
class PBT(Plugin):
    """Population-based training: now and then the worst trials go on from the best ones' models, with changed values.

    Paper: Jaderberg et al., Population Based Training of Neural Networks, 2017, https://arxiv.org/abs/1711.09846

    Args:
        every: rounds between such exchanges; a tenth of them if not given.
        share: of the trials that are replaced, in (0, 0.5].
        resample: chance that a value is drawn anew, in [0, 1]; otherwise it is multiplied by a factor.
        factors: that a value is multiplied by, one of them drawn.
    """

    every: Count | None = None
    share: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    resample: Probability = 0.25
    factors: tuple[Positive, Positive] = (0.8, 1.25)


Scheduler = Asha | Median | PBT
_KINDS = {"asha": Asha, "median": Median, "pbt": PBT}


def read(written: Any) -> Scheduler | None:
    """The scheduler that is written: "none", a name, or a mapping with a ``name`` and fields.

    Raises:
        ConfigError: there is no such one.
    """
    if isinstance(written, (Asha, Median, PBT)):
        return written
    tree = {"name": written} if isinstance(written, str) or written is None else written
    if not isinstance(tree, dict):
        raise ConfigError(f"sweep.scheduler must be none, {', '.join(_KINDS)}, got {shown(written)}.")
    name = tree.get("name")
    if name is None or name == "none":
        return None
    if name not in _KINDS:
        raise ConfigError(f"sweep.scheduler: there is no {name!r}. Known: none, {', '.join(_KINDS)}.")
    return spec.build(_KINDS[name], tree, "sweep.scheduler")  # type: ignore[return-value]


def written(scheduler: Scheduler | None) -> Any:
    """As YAML holds it."""
    if scheduler is None:
        return "none"
    fields = {name: list(v) if isinstance(v, tuple) else v for name, v in vars(scheduler).items()}
    return {"name": type(scheduler).__name__.lower(), **fields}


def tenth(given: int | None, rounds: int) -> int:
    """A number of rounds, or a tenth of them all."""
    return given or max(1, math.ceil(rounds / 10))
