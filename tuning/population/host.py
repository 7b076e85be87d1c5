"""The host of a population: answers what the rounds of all its trials ask, each kind of call at once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raysim.core.batches import Batches
from raysim.core.cohorts import Plan
from raysim.core.host import CHUNK, Host, Partial, Setup
from raysim.core.interfaces import Optimizer
from raysim.core.mixing import Mixing
from raysim.core.task import Task
from raysim.core.training import Trainer
from tuning.population.calls import Call, Mix
from tuning.population.stack import StackedCohort, Stacking, Sums
from tuning.population.values import NotStackable, Varied, differing, merged

MODELS = 32  # evaluated at once: more run no faster and take more memory


class PopulationHost(Host):
    """All clients of all trials.

    Args:
        setup: the first trial's experiment, ready to run.
        device: where to compute.
        optimizers: every trial's local optimiser.
        rows: rows in a block.
    """

    def __init__(
        self, setup: Setup, device: torch.device | str, optimizers: Sequence[Optimizer], rows: int
    ) -> None:
        super().__init__(setup, device)
        self.trainer = Trainer(self.task, setup.form, self.local.objective, folds=True)
        self.optimizers, self.block = list(optimizers), rows
        self._plan: Stacking | None = None
        self._numbers: tuple[tuple[int, ...], Any] | None = None

    # ---- calls -----------------------------------------------------------------------------------------------

    def answers(self, calls: Sequence[Any], trials: Sequence[int]) -> list[Any]:
        """The answers to calls of one kind, in order.

        Raises:
            NotStackable: a client function cannot be run on such a stack.
        """
        if isinstance(calls[0], Call):
            return self._together(calls, trials)
        if isinstance(calls[0], Mix):
            return self._mixed(calls, trials)
        kept = lambda call, trial: call.ids * len(self.optimizers) + trial
        pick = lambda call, trial: self.rows.pick(call.name, kept(call, trial)).cpu()
        return [pick(*each) for each in zip(calls, trials, strict=True)]

    def _mixed(self, calls: Sequence[Mix], trials: Sequence[int]) -> list[int]:
        """Mix every trial's rows among themselves, all at once; returns the rows' width for each."""
        name, T = calls[0].name, len(self.optimizers)
        every = list(zip([call.mixing for call in calls], trials, strict=True))
        start = np.cumsum([0] + [m.start_C[-1] for m, _ in every])
        mixing = Mixing(
            np.concatenate([m.ids_C * T + t for m, t in every]),
            np.concatenate(
                [*(m.start_C[:-1] + a for (m, _), a in zip(every, start, strict=False)), start[-1:]]
            ),
            np.concatenate([m.neighbour_E * T + t for m, t in every]),
            np.concatenate([m.weight_E for m, _ in every]),
        )
        self.mix(name, mixing)
        return [len(self.rows.fills[name])] * len(calls)

    def _together(self, calls: Sequence[Call], trials: Sequence[int]) -> list[Partial]:
        """The same exchange of several trials, as one stack; each one's result."""
        first = calls[0]
        try:
            shared = [
                merged(values, self.device, f"what {_name(first.function)} is given")
                for values in zip(*[c.shared for c in calls], strict=True)
            ]
            numbers = self._optimizer(tuple(trials)), merged([c.plan.lr for c in calls], self.device)
            shared = [self._here(v) for v in shared]
            return self._stacked(first, self._stacking(first.plan, np.array(trials)), shared, numbers)
        except (MemoryError, torch.OutOfMemoryError, NotStackable):
            raise
        except Exception as error:
            text = str(error).splitlines()[0] if str(error) else ""
            raise NotStackable(
                f"{_name(first.function)} fails on a stack of trials: {type(error).__name__}: {text}"
            ) from error

    def _stacked(
        self, call: Call, plan: Stacking, shared: list[Any], numbers: tuple[Any, Any]
    ) -> list[Partial]:
        self.rows.admit(plan.kept_ids)
        sums = Sums(plan, call.reduce, self.device)
        for block in range(plan.blocks):
            cohort = StackedCohort(self, plan, block, call.measure, numbers)
            result = call.function(cohort, *(cohort.value(v) for v in shared))
            cohort.delivered(result)
            cohort.state.commit()
            sums.add(block, result, cohort.reports)
        return sums.partials(bool(self.rows.tensors))

    def _stacking(self, base: Plan, trials: np.ndarray) -> Stacking:
        """The stack, kept as long as cohort, weights and trials stay."""
        last = self._plan
        if (
            last is None
            or last.base.ids_C is not base.ids_C
            or last.round != base.round
            or not np.array_equal(last.base.weight_C, base.weight_C)
            or not np.array_equal(last.trials, trials)
        ):
            self._plan = last = Stacking.of(base, trials, self.block, len(self.optimizers))
        return last

    def _optimizer(self, trials: tuple[int, ...]) -> Any:
        """The local optimisers of these trials as one, but for their step size, which a round says."""
        if self._numbers is None or self._numbers[0] != trials:
            chosen = [self.optimizers[t] for t in trials]
            fields = {
                name: merged([getattr(o, name) for o in chosen], self.device, f"local.optimizer.{name}")
                for name in differing(chosen)
                if name != "lr"
            }
            self._numbers = trials, Varied(chosen[0], fields) if fields else chosen[0]
        return self._numbers[1]

    def batches(self, plan: Plan, begin: int, end: int) -> Batches:
        """This round's batches of rows begin..end-1: every trial's client has the same."""
        assert isinstance(plan, Stacking)
        T = len(plan.trials)
        a, b = begin // T, -(-end // T)
        return repeated(super().batches(plan.base, a, b), T).part(begin - a * T, end - a * T)

    # ---- evaluation ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate_all(self, x_TP: Tensor) -> list[list[tuple[float, float | None, int]]]:
        """For every model: loss sum, hit sum and number of examples of each chunk of the test set."""
        x, y = self.test
        x_TP = x_TP.to(self.device)
        parts = [slice(c, c + CHUNK) for c in range(0, len(x), CHUNK)]
        if self.task.chain is None:  # activations of many networks at once may be gigabytes
            return [self.evaluate(x_P, list(range(len(parts)))) for x_P in x_TP]
        found: list[list[tuple[float, float | None, int]]] = []
        for models in x_TP.split(MODELS):
            pieces = [_sums(self.task, models, x[s], y[s]) for s in parts]
            found += [list(of_trial) for of_trial in zip(*pieces, strict=True)]
        return found


def _sums(task: Task, x_TP: Tensor, x_n: Tensor, y_n: Tensor) -> list[tuple[float, float | None, int]]:
    """Sum of losses, sum of hits and number of examples of every model, all of them at once."""
    T, n, chain = len(x_TP), len(y_n), task.chain
    assert chain is not None
    x_Tn, y_Tn = x_n.expand(T, *x_n.shape), y_n.expand(T, *y_n.shape)
    out_TOn = chain.outputs(chain.views(x_TP), x_Tn)
    loss_Tn = chain.loss.with_gradient(out_TOn, y_Tn)[
        0
    ]  # by column: reductions over a short last axis are slow
    hits = task.loss.hits(out_TOn.mT.flatten(0, 1), y_n.repeat(T, *[1] * (y_n.dim() - 1)))
    sums = lambda value: value.view(T, -1).sum(1, dtype=torch.float64).tolist()
    return list(zip(sums(loss_Tn), [None] * T if hits is None else sums(hits), [n] * T, strict=True))


def repeated(batches: Batches, times: int) -> Batches:
    """The same batches with every client so many times, one after the other."""
    if times == 1:
        return batches
    more, again = copy.copy(batches), lambda t, axis: t.repeat_interleave(times, axis)
    more.size_C, more.steps_C = batches.size_C.repeat(times), batches.steps_C.repeat(times)
    more.key_C, more.index_KCB = again(batches.key_C, 0), again(batches.index_KCB, 1)
    if batches.weight_CKB is not None:
        more.weight_CKB = again(batches.weight_CKB, 0)
    more._fixed = None
    return more


def _name(function: Any) -> str:
    inner = getattr(function, "function", function)
    return getattr(inner, "__name__", type(inner).__name__)
