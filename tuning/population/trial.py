"""One trial of a population: an experiment's rounds, run a piece at a time between what it asks of its clients.

A round is a pure function of the server and of what the clients answer. So it is run until it asks for something that
is not known yet, and once more from its beginning when the answer has come: no threads, and the rule knows nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from raysim.core.channel import Channel
from raysim.core.clients import Clients
from raysim.core.cohorts import Plan, Shards
from raysim.core.host import Partial
from raysim.core.mixing import Mixing
from raysim.core.plugin import at_round
from raysim.core.server import Server
from raysim.result import Result
from raysim.runtime.coordinator import Coordinator
from raysim.runtime.outcome import Outcome
from raysim.simulation import Simulation
from tuning.population.calls import Call, Fetch, Mix
from tuning.population.values import NotStackable


class Asked(BaseException):
    """A round cannot go on before this call is answered. No error, so that no rule's ``except`` takes it for one.

    Args:
        call: what it asks.
    """

    def __init__(self, call: Call | Mix | Fetch) -> None:
        self.call = call


class Seat:
    """What a trial takes for its fleet: it hands out the answers known so far, then asks."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self._next = 0

    def rewind(self) -> None:
        """Begin again with the first answer."""
        self._next = 0

    def exchange(
        self,
        function: Callable[..., Any],
        shared: tuple[Any, ...],
        plan: Plan,
        reduce: str,
        measure: bool = False,
    ) -> list[Partial]:
        """The next answer, in memory of its own: rules may write to what they get."""
        answer = self._answer(Call(function, shared, plan, reduce, measure))
        own = lambda parts: tuple(p.clone() for p in parts)
        nodes = {node: own(parts) for node, parts in answer.nodes.items()}
        return [replace(answer, nodes=nodes, reports=dict(answer.reports))]

    def mix(self, name: str, mixing: Mixing) -> int:
        """The width of the rows that were mixed."""
        return self._answer(Mix(name, mixing))

    def fetch(self, name: str, ids: np.ndarray) -> Tensor:
        """The rows, in memory of their own."""
        return self._answer(Fetch(name, ids)).clone()

    def _answer(self, call: Call | Mix | Fetch) -> Any:
        if self._next == len(self.answers):
            raise Asked(call)
        self._next += 1
        return self.answers[self._next - 1]

    def evaluate(self, x_P: Tensor) -> tuple[float, float | None]:
        """Refused: all trials' models are evaluated together."""
        raise NotStackable("the rule evaluates models")


@dataclass
class Common:
    """What all trials of a population have in common.

    Args:
        shards: each client's examples.
        x_P: where all of them start.
        channel: what messages go through.
        form: execution form.
        block: rows in a block.
        plan: the cohort of a round.
    """

    shards: Shards
    x_P: Tensor
    channel: Channel
    form: str
    block: int
    plan: Callable[[int], Plan]


class Trial(Coordinator):
    """One experiment of a population.

    Args:
        simulation: the experiment.
        number: of the trial.
        common: what all trials have in common.
    """

    def __init__(self, simulation: Simulation, number: int, common: Common) -> None:
        super().__init__(simulation, None)
        self.number, self.fleet = number, Seat()
        self.shards, self.P, self.channel = common.shards, len(common.x_P), common.channel
        self.form, self.block = common.form, common.block
        self.server, self._common = Server(common.x_P), common
        self.outcome: Outcome | None = None
        self._seen: tuple[Clients, Server] | None = None
        self._planned: Plan | None = None

    def _plan(self, round: int) -> Plan:
        if self._planned is None or self._planned.round != round:  # a round is run several times
            lr = at_round(self.simulation.local.optimizer.lr, round)
            self._planned = replace(self._common.plan(round), lr=lr)
        return self._planned

    def _tell(self, kind: str, **facts: Any) -> dict[str, Any]:
        """Nobody watches a single trial."""
        return {"kind": kind} | facts

    # ---- a round ---------------------------------------------------------------------------------------------

    def ask(self) -> Call | Mix | Fetch | None:
        """Run the round up to what it has to know next; None where it has ended.

        With k exchanges the server's side of a round is run k + 1 times.
        """
        self.fleet.rewind()
        clients = self._clients(self.server)
        try:
            after = clients.settled(self.simulation.rule.round(clients, self.server))
        except Asked as asked:
            return asked.call
        self.fleet.answers = []
        self._seen = clients, replace(after, round=self.server.round + 1)
        return None

    def end_round(self, seconds: float) -> bool:
        """Count the round that has ended; returns whether the trial's model is to be evaluated."""
        assert self._seen is not None
        clients, after = self._seen
        self._count(clients, seconds)
        if not self._healthy(after, clients):
            self.outcome = self._diverged(self.server, after, clients)
            return False
        self.server = after
        return self._due(after.round)

    def evaluated(self, loss: float, accuracy: float | None) -> None:
        """Take note of what the model is worth."""
        row: dict[str, Any] = {"round": self.server.round, "loss": loss}
        if accuracy is not None:
            row["accuracy"] = accuracy
        self._record(row, self._seen[0] if self._seen else None)

    def result(self) -> Result:
        """What it came to."""
        end = self.outcome or self._finish(self.server)
        return Result(self.simulation, end.status, end.rows, end.server.x_P, None, end.seconds)
