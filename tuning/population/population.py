"""Populations: experiments that differ in numbers alone, trained as one stack of rows in this process.

T trials of C clients each are T C rows; their step sizes, momenta, pulls become columns. What a small experiment costs
is mostly the calls and not the arithmetic, and the calls are the same for T C rows as for C. Rules stay what they are:
each trial keeps its own rule and server, and only what they ask of their clients is computed together. Results are
those of separate runs up to rounding.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import Any

import torch

from raysim import rules
from raysim.core.channel import Channel
from raysim.core.cohorts import Plan, cohort_ids, plan
from raysim.core.execution import choose_form, examples_of
from raysim.core.host import Setup
from raysim.core.plugin import Plugin, Schedule, shown
from raysim.core.task import Task
from raysim.core.transforms import Transform
from raysim.result import Result
from raysim.runtime.fleet import device_of, pooled
from raysim.simulation import Simulation
from tuning.population.host import PopulationHost
from tuning.population.trial import Common, Trial
from tuning.population.values import NotStackable, same

KEPT: dict[type, int] = {
    rules.Averaging: 0,
    rules.ChocoSGD: 6,
    rules.DiLoCo: 0,
    rules.Downpour: 0,
    rules.EAMSGD: 1,
    rules.EASGD: 1,
    rules.ExactDiffusion: 4,
    rules.FedDyn: 1,
    rules.FedGA: 0,
    rules.FedProx: 0,
    rules.Gossip: 3,
    rules.GossipAGA: 2,
    rules.GradAlign: 0,
    rules.Leader: 2,
    rules.MajorityVote: 0,
    rules.MimeLite: 0,
    rules.Robust: 0,
    rules.Scaffold: 1,
    rules.SlowMo: 0,
}
"""Rules whose client side is known to work on rows of shared values, and how many rows each client keeps for them.

A rule of your own joins them with a class attribute ``stacks = True``: its client functions must be written on the last
axis, so that a number may be a column [C, 1] and a shared vector rows [C, P]; and its ``round``, which is run once more
after each exchange, must leave the server's state as it is. Columns are of float32: 1 - β loses digits for a β near 1.
"""
MEMORY = 1 << 30  # bytes of rows that a population may keep
MOST_ROWS = 256  # in a block on a CPU: more run no faster
BLOCK_BYTES = 13 << 18  # of parameters and optimiser state in a block on a CPU, as for a single experiment
GPU_BLOCK = 4096
ASIDE = ("name", "checkpoint_every", "local", "rule")  # fields that may differ, or are compared by themselves


def stackable(simulations: Sequence[Simulation]) -> str | None:
    """Why these experiments cannot train as one stack; None if they can, as far as can be told before they run."""
    first = simulations[0]
    reason = _unfit(first)
    if reason:
        return reason
    for other in simulations[1:]:
        for path in _paths(first, other):
            reason = _no_number(path, *(_at(s, path) for s in (first, other)))
            if reason:
                return reason
        if first.local.keep_state and not _begin_alike(first, other):
            return "local.optimizer: the state that clients keep begins differently"
    return None


def differences(simulations: Sequence[Simulation]) -> list[str]:
    """Dotted paths of the fields in which experiments are not all alike."""
    found = [path for other in simulations[1:] for path in _paths(simulations[0], other)]
    return list(dict.fromkeys(found))


def _unfit(simulation: Simulation) -> str | None:
    """Why an experiment can be part of no stack."""
    rule = type(simulation.rule)
    if simulation.placement.actors:
        return f"placement.actors is {simulation.placement.actors}: a stack lives in one process"
    if simulation.execution.form in ("compiled", "fastest", "loop"):
        return f"execution.form is {simulation.execution.form}"
    if rule not in KEPT and not getattr(rule, "stacks", False):
        return f"rule.{rule.__name__} is not known to work on a stack of trials"
    if simulation.probes:
        return f"probe {type(simulation.probes[0]).__name__} looks at one experiment at a time"
    for transform in simulation.uplink:
        if transform.watches or type(transform).told is not Transform.told:
            return f"uplink.{type(transform).__name__} is told something about each experiment"
    return None


def _paths(a: Simulation, b: Simulation) -> Iterator[str]:
    """Where two experiments differ, as far down as there are fields."""
    for f in fields(Simulation):
        if f.name not in ASIDE and not same(getattr(a, f.name), getattr(b, f.name)):
            yield f.name
    yield from _below("local", a.local, b.local)
    yield from _below("rule", a.rule, b.rule)


def _below(path: str, a: object, b: object) -> Iterator[str]:
    if same(a, b):
        return
    if type(a) is type(b) and isinstance(a, Plugin) and not isinstance(a, (Transform, Schedule)):
        for f in fields(a):  # type: ignore[arg-type]  (every plug-in is a dataclass)
            yield from _below(f"{path}.{f.name}", getattr(a, f.name), getattr(b, f.name))
    else:
        yield path


def _at(simulation: Simulation, path: str) -> object:
    value: object = simulation
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _no_number(path: str, a: object, b: object) -> str | None:
    if all(isinstance(v, (float, Schedule)) for v in (a, b)) and path.startswith(
        ("local.optimizer.", "rule.")
    ):
        return None
    return f"{path} differs ({shown(a)} and {shown(b)}), and is no number that a row could have for itself"


def _begin_alike(a: Simulation, b: Simulation) -> bool:
    states = [s.local.optimizer.init(torch.zeros(1, 2)) for s in (a, b)]
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0].keys() & states[1].keys())


class Population:
    """Trials that train as one stack.

    Args:
        simulations: experiments that differ in numbers alone.
        memory: bytes of rows to keep at most; more trials than that allows train as several stacks.

    Raises:
        NotStackable: they differ in something else.
    """

    def __init__(self, simulations: Sequence[Simulation], memory: int = MEMORY) -> None:
        reason = stackable(simulations)
        if reason:
            raise NotStackable(reason)
        self.simulations, self.memory = list(simulations), memory
        self._plans: tuple[int, Plan] | None = None

    def run(self, watch: Callable[[float], object] | None = None) -> list[Result]:
        """Run all trials to their end.

        Args:
            watch: called after each round with the share of all rounds that are done.

        Returns:
            Their results, in order. The metric ``seconds`` is each trial's even share of what the stack took.

        Raises:
            NotStackable: a client function cannot be run on a stack.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(self.simulations[0].placement.threads)
        try:
            setup = self._prepare()
            size = self._most()
            number, results = len(self.simulations), []
            for a in range(0, number, size):
                stack = self.simulations[a : a + size]
                results += self._run(setup, stack, part_of(watch, a, len(stack), number))
            return results
        finally:
            torch.set_num_threads(threads)

    # ---- before the first round ------------------------------------------------------------------------------

    def _prepare(self) -> Setup:
        """Load what all trials have in common."""
        sim = self.simulations[0]
        dataset, self.shards = sim.load()
        module = sim.initial_model(dataset)
        task = Task(module, dataset.loss)
        self.task, self.device = task, device_of(sim.placement)
        self.channel = Channel(sim.seed, sim.uplink, sim.downlink, tuple(task.shapes))
        for caution in self.channel.cautions():
            warnings.warn(caution, stacklevel=3)
        self.form = choose_form(sim.execution.form, task, examples_of(dataset, self.shards), self.device)
        if self.form == "loop":
            raise NotStackable("its network trains one client after the other (execution.form is loop)")
        self.size = sim.cohort_size(self.shards.number)
        return Setup(dataset, self.shards, module, sim.local, sim.seed, self.form)

    def _state(self) -> int:
        """Numbers in the optimiser state of a row."""
        x_1P = self.task.initial().unsqueeze(0)
        states = [s.local.optimizer.init(x_1P) for s in self.simulations]
        return max(sum(rows.shape[1] for rows in state.values()) for state in states)

    def _most(self) -> int:
        """Trials that fit into memory at once."""
        sim, P = self.simulations[0], self.task.P
        kept = P * (KEPT.get(type(sim.rule), 1) + len(sim.uplink)) + self._state() * sim.local.keep_state
        gathered = P * self.size * sim.rule.gathers
        most = self.memory // (4 * (kept * self.shards.number + gathered + 8 * P))
        if most < 2:
            raise NotStackable(
                f"two of them would keep more than {self.memory / 1e9:.1f} GB of rows in this process"
            )
        return most

    def _block(self) -> int:
        """Rows in a block."""
        if self.device == "cuda":
            return GPU_BLOCK
        steps = int(self.simulations[0].local.steps_of(self.shards.sizes_N).max(initial=0))
        room = BLOCK_BYTES * (2 if steps == 1 else 1)
        return max(1, min(MOST_ROWS, room // (4 * (self.task.P + self._state()))))

    def _plan(self, round: int) -> Plan:
        """The cohort, the same in every trial."""
        if self._plans is None or self._plans[0] != round:
            sim, number = self.simulations[0], self.shards.number
            ids = cohort_ids(sim.seed, round, number, sim.cohort_size(number))
            self._plans = round, plan(sim.local, self.shards, ids, round, len(ids))
        return self._plans[1]

    # ---- rounds ----------------------------------------------------------------------------------------------

    def _run(
        self, setup: Setup, simulations: list[Simulation], tell: Callable[[float], object]
    ) -> list[Result]:
        optimizers = [s.local.optimizer for s in simulations]
        host = PopulationHost(setup, self.device, optimizers, self._block())
        common = Common(self.shards, self.task.initial(), self.channel, self.form, host.block, self._plan)
        trials = [Trial(s, number, common) for number, s in enumerate(simulations)]
        self._evaluate(host, trials)
        for round in range(simulations[0].rounds):
            live = [t for t in trials if t.outcome is None]
            if not live:
                break
            begin = time.perf_counter()
            self._round(host, live)
            seconds = (time.perf_counter() - begin) / len(live)
            self._evaluate(host, [t for t in live if t.end_round(seconds)])
            tell((round + 1) / simulations[0].rounds)
        return [trial.result() for trial in trials]

    def _round(self, host: PopulationHost, live: list[Trial]) -> None:
        """Everybody's round, from one exchange to the next."""
        waiting = live
        while waiting:
            asked = [(trial, call) for trial in waiting if (call := trial.ask()) is not None]
            for group in _grouped(asked):
                calls, numbers = [call for _, call in group], [trial.number for trial, _ in group]
                for (trial, _), partial in zip(group, host.answers(calls, numbers), strict=True):
                    trial.fleet.answers.append(partial)
            waiting = [trial for trial, _ in asked]

    def _evaluate(self, host: PopulationHost, trials: list[Trial]) -> None:
        if not trials:
            return
        parts = host.evaluate_all(torch.stack([t.server.x_P for t in trials]))
        for trial, part in zip(trials, parts, strict=True):
            trial.evaluated(*pooled(part))


def part_of(
    watch: Callable[[float], object] | None, first: int, number: int, total: int
) -> Callable[[float], object]:
    """Tells the share that is done of some experiments as the share that is done of all."""
    return lambda share: watch and watch((first + share * number) / total)


def _grouped(asked: list[tuple[Trial, Any]]) -> list[list[tuple[Trial, Any]]]:
    """Calls that can be computed as one stack, together."""
    groups: list[list[tuple[Trial, Any]]] = []
    for trial, call in asked:
        for group in groups:
            if group[0][1].like(call):
                group.append((trial, call))
                break
        else:
            groups.append([(trial, call)])
    return groups
