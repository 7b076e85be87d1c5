"""Watching a few rounds of an experiment in this process: what they exchange, and how long each part takes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from raysim.core.cohorts import Plan
from raysim.core.host import Partial
from raysim.core.mixing import Mixing
from raysim.plan.facts import Evaluation, Exchange, Pattern
from raysim.runtime.fleet import LocalFleet
from raysim.runtime.stepwise import Stepwise

if TYPE_CHECKING:
    from raysim.core.clients import Clients
    from raysim.core.server import Server


class Recorder:
    """A fleet that passes everything on and remembers each exchange.

    Args:
        fleet: in this process.
        clients: of the experiment.
    """

    def __init__(self, fleet: LocalFleet, clients: int) -> None:
        self.fleet, self.clients = fleet, clients
        self.calls: list[Exchange] = []
        self.evaluations: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.fleet, name)

    def _timed(self, call: Callable[[], Any]) -> tuple[Any, float]:
        begin = time.perf_counter()
        value = call()
        if self.fleet.host.device.type == "cuda":
            torch.cuda.synchronize()
        return value, time.perf_counter() - begin

    def exchange(
        self,
        function: Callable[..., Any],
        shared: tuple[Any, ...],
        plan: Plan,
        reduce: str,
        measure: bool = False,
    ) -> list[Partial]:
        """Run it, and note what would travel."""
        partials, seconds = self._timed(lambda: self.fleet.exchange(function, shared, plan, reduce, measure))
        arrays = array_bytes((function, [v for v in shared if not isinstance(v, Tensor)]), self.clients)
        (partial,) = partials
        reports = sum(v.nbytes for v in partial.reports.values()) / len(plan.ids_C)
        self.calls.append(
            Exchange(
                "exchange",
                seconds,
                {"mean": "sum"}.get(reduce, reduce),
                tuple(v.numel() * v.element_size() for v in shared if isinstance(v, Tensor)),
                arrays[0],
                arrays[1] / self.clients,
                _row_bytes(partial),
                reports,
            )
        )
        return partials

    def mix(self, name: str, mixing: Mixing) -> int:
        """Mix, and note how wide the rows are."""
        width, seconds = self._timed(lambda: self.fleet.mix(name, mixing))
        item = self.fleet.host.rows.fills[name].element_size()
        self.calls.append(Exchange("mix", seconds, row_bytes=width * item))
        return width

    def fetch(self, name: str, ids: np.ndarray) -> Tensor:
        """Fetch, and note how many rows."""
        rows, seconds = self._timed(lambda: self.fleet.fetch(name, ids))
        self.calls.append(
            Exchange("fetch", seconds, row_bytes=rows[0].numel() * rows.element_size(), rows=len(ids))
        )
        return rows

    def evaluate(self, x_P: Tensor) -> tuple[float, float | None]:
        """Evaluate, and note how long it took."""
        value, seconds = self._timed(lambda: self.fleet.evaluate(x_P))
        self.evaluations.append(seconds)
        return value


def _row_bytes(partial: Partial) -> int:
    """Bytes of a row that comes back: of a node's sum, or of one client."""
    for node in partial.nodes.values():
        return sum(v.numel() * v.element_size() for v in node)
    return sum(v[0].numel() * v.element_size() for v in partial.rows[0]) if partial.rows else 0


def array_bytes(value: Any, clients: int) -> tuple[int, int]:
    """Bytes of arrays inside a value: those of any size, and those of numpy arrays with a number per client."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size(), 0
    if isinstance(value, np.ndarray):
        return (0, value.nbytes) if len(value.shape) and len(value) == clients else (value.nbytes, 0)
    inner: list[Any] = []
    if isinstance(value, dict):
        inner = list(value.values())
    elif isinstance(value, (tuple, list)):
        inner = list(value)
    elif is_dataclass(value) and not isinstance(value, type):
        inner = [getattr(value, field.name) for field in fields(value)]
    found = [array_bytes(v, clients) for v in inner]
    return sum(a for a, _ in found), sum(b for _, b in found)


@dataclass(frozen=True)
class Round:
    """What one round took.

    Args:
        seconds: from the end of the round before, without evaluation.
        work: of its cohort, over that of a usual one.
        exchanges: of the rule.
        probes: exchanges of the probes, where it was evaluated.
        probed: whether it was.
    """

    seconds: float
    work: float
    exchanges: tuple[Exchange, ...]
    probes: tuple[Exchange, ...]
    probed: bool


class Watched(Stepwise):
    """An experiment of which every round is recorded."""

    def begin(self) -> None:
        """Prepare, and put the recorder in the fleet's place."""
        super().begin()
        self.fleet: Any = Recorder(self.fleet, self.shards.number)  # type: ignore[arg-type]
        self.recorder: Recorder = self.fleet
        self.seen: list[Round] = []
        self._probes: list[Exchange] = []
        self._mark = time.perf_counter()

    def _probe(self, clients: Clients, server: Server, after: bool) -> dict[str, float]:
        first = len(self.recorder.calls)
        begin = time.perf_counter()
        value = super()._probe(clients, server, after)
        self._probes += self.recorder.calls[first:]
        del self.recorder.calls[first:]
        self._mark += time.perf_counter() - begin
        return value

    def _after(self, server: Server, clients: Clients) -> None:
        now, recorder = time.perf_counter(), self.recorder
        due = self._due(server.round)
        work = self._work(clients.ids)
        self.seen.append(Round(now - self._mark, work, tuple(recorder.calls), tuple(self._probes), due))
        super()._after(server, clients)
        recorder.calls.clear()
        self._probes = []
        self._mark = time.perf_counter()

    def _work(self, ids: np.ndarray) -> float:
        """Work of a cohort over that of a usual one: of some clients with unequal data not all rounds are alike."""
        sizes, local = self.shards.sizes_N, self.simulation.local
        work_N = local.steps_of(sizes) * np.minimum(sizes, local.batch_size or sizes) + 1
        return float(work_N[ids].mean() / work_N.mean())


def patterns(rounds: list[Round]) -> tuple[Pattern, ...]:
    """Kinds of rounds by what they exchange; each part's time is the shortest that was seen, for nothing disturbs it.

    The first round is left out: it begins what later ones go on with.
    """
    rounds = _whole_periods(rounds[1:])
    kinds = Counter(_kind(r) for r in rounds)
    found = []
    for kind, number in kinds.items():
        alike = [r for r in rounds if _kind(r) == kind]
        own = min(r.seconds - sum(e.work_s for e in r.exchanges) for r in alike)
        found.append(Pattern(number / len(rounds), max(0.0, own), shortest(alike, lambda r: r.exchanges)))
    return tuple(found)


def _whole_periods(rounds: list[Round]) -> list[Round]:
    """As many of the rounds as hold whole periods, where kinds come again and again in the same order."""
    kinds = [_kind(r) for r in rounds]
    for period in range(1, len(kinds) // 2 + 1):
        if kinds[period:] == kinds[:-period]:
            return rounds[len(rounds) % period :]
    return rounds


def _kind(r: Round) -> tuple[Exchange, ...]:
    return tuple(replace(e, work_s=0.0) for e in r.exchanges)


def shortest(rounds: list[Round], of: Callable[[Round], tuple[Exchange, ...]]) -> tuple[Exchange, ...]:
    """The same exchanges over and over, each with its shortest time for a usual cohort."""
    usual = [[replace(e, work_s=e.work_s / r.work) for e in of(r)] for r in rounds]
    return tuple(replace(each[0], work_s=min(e.work_s for e in each)) for each in zip(*usual, strict=True))


def evaluation(watched: Watched) -> Evaluation:
    """What evaluating takes."""
    chunks = max(1, len(watched.recorder.fleet.chunks))
    probed = [r for r in watched.seen[1:] if r.probed] or [r for r in watched.seen if r.probed]
    most = max((len(r.probes) for r in probed), default=0)
    alike = [r for r in probed if len(r.probes) == most]
    seconds = min(watched.recorder.evaluations) / chunks
    return Evaluation(chunks, seconds, shortest(alike, lambda r: r.probes) if alike else ())
