"""Ray Tune's side of schedulers and searches."""

from __future__ import annotations

import logging
from typing import Any

from ray import tune
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)

from tuning.plan import Plan
from tuning.schedulers import PBT, Asha, Median, tenth
from tuning.spaces import Range, share


def scheduler(plan: Plan) -> TrialScheduler | None:
    """The scheduler of a sweep."""
    rounds, how = plan.base.rounds, plan.scheduler
    if isinstance(how, Asha):
        grace = min(tenth(how.grace, rounds), rounds)
        return AsyncHyperBandScheduler(
            "round", max_t=rounds, grace_period=grace, reduction_factor=how.reduction
        )
    if isinstance(how, Median):
        return MedianStoppingRule("round", grace_period=tenth(how.grace, rounds))
    if isinstance(how, PBT):
        return PopulationBasedTraining(
            "round",
            perturbation_interval=tenth(how.every, rounds),
            quantile_fraction=how.share,
            custom_explore_fn=Explorer(plan, how),
            synch=True,  # or short trials would have ended before the last one has begun
        )
    return None


class Explorer:
    """How population-based training changes values: drawn anew, or moved a little.

    Args:
        plan: the sweep.
        how: its scheduler.
    """

    def __init__(self, plan: Plan, how: PBT) -> None:
        self.spaces, self.seed, self.how, self.calls = plan.spaces, plan.block.seed, how, 0

    def __call__(self, config: dict[str, Any]) -> dict[str, Any]:
        """Another configuration near this one."""
        self.calls += 1
        point = dict(config["point"])
        for path, space in self.spaces.items():
            anew, which = (share(self.seed, f"{word}/{path}", self.calls) for word in ("resample", "which"))
            if anew < self.how.resample:
                point[path] = space.draw(which)
            elif isinstance(space, Range):
                point[path] = space.rounded(point[path] * self.how.factors[int(which * 2)])
            else:
                point[path] = _neighbour(space.every(), point[path], 1 if which < 0.5 else -1)
        return config | {"point": point}


def _neighbour(values: list[Any], value: Any, step: int) -> Any:
    """The next one of a list, or the one before where there is no next."""
    at = values.index(value)
    if not 0 <= at + step < len(values):
        step = -step
    return values[max(at + step, 0)] if len(values) > 1 else value


def domain(space: Any) -> Any:
    """A space as Ray Tune's searches take it."""
    if not isinstance(space, Range):
        return tune.choice(space.every())
    if space.whole:
        return (tune.lograndint if space.log else tune.randint)(int(space.low), int(space.high) + 1)
    return (tune.loguniform if space.log else tune.uniform)(space.low, space.high)


def optuna(plan: Plan) -> Any:
    """Optuna's search (TPE)."""
    from ray.tune.search.optuna import OptunaSearch

    logging.getLogger("optuna").setLevel(logging.WARNING)
    return OptunaSearch(seed=plan.block.seed)
