"""The coordinator: runs the rule round by round, measures, writes checkpoints, and starts again where it must.

A plain class: in process it is called, on Ray it is an actor. Everything it decides is a function of the experiment.
"""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from raysim.core.channel import Channel
from raysim.core.clients import Clients
from raysim.core.cohorts import cohort_ids, plan
from raysim.core.execution import choose_block, choose_form, examples_of
from raysim.core.host import Setup
from raysim.core.server import Server
from raysim.core.task import Task
from raysim.runtime import checkpoint
from raysim.runtime.fleet import HostLost, device_of, probed, started
from raysim.runtime.folder import RunFolder, left
from raysim.runtime.outcome import Outcome, Tally
from raysim.runtime.telemetry import Telemetry, name_of
from raysim.runtime.telling import Telling, Watch

if TYPE_CHECKING:
    from raysim.simulation import Simulation

RETRIES = 3  # a round that loses its hosts so often has another trouble than bad luck


class Coordinator(Telling):
    """Runs one experiment.

    Args:
        simulation: the experiment.
        folder: where to write, a path or a URL; None for nowhere.
        resume: continue the run in that folder.
        watch: called with each event, in process.
        telemetry: export Ray metrics (see ``telemetry.py``); on Ray only.
        reserved: room for client actors, where somebody has reserved it (see ``placing.py``).
    """

    def __init__(
        self,
        simulation: Simulation,
        folder: Path | str | None,
        resume: bool = False,
        watch: Watch | None = None,
        telemetry: bool = False,
        reserved: Any = None,
    ) -> None:
        super().__init__(watch)
        self.reserved = reserved
        self.simulation, self.place, self.resume = simulation, folder, resume
        self.folder: RunFolder | None = None
        self.telemetry = Telemetry(name_of(folder, simulation.name)) if telemetry else None
        self.tally, self.rows = Tally(), []
        self.keeps_rows, self.gone = False, 0
        self.last: checkpoint.Checkpoint | None = None

    def _tell(self, kind: str, **facts: Any) -> dict[str, Any]:
        event = super()._tell(kind, **facts)
        if self.telemetry:
            self.telemetry.see(event, self.tally, getattr(self, "fleet", None))
        return event

    def run(self) -> Outcome:
        """Run to the end, or until stopped or diverged."""
        threads = torch.get_num_threads()
        torch.set_num_threads(self.simulation.placement.threads)
        try:
            with self._warnings_told():
                server = self._prepare()
            return self._rounds(server)
        except HostLost as error:
            raise HostLost(f"{error} The run gives up. {left(self.place)}") from None
        finally:
            torch.set_num_threads(threads)
            if hasattr(self, "fleet"):
                self.fleet.close()
            if self.folder:
                with self._warnings_told():
                    self.folder.close()

    def _prepare(self) -> Server:
        """Load data, choose form and block, start hosts, find where to begin."""
        sim = self.simulation
        self.folder = None if self.place is None else RunFolder(self.place)
        self.last = self.folder.open(self.resume) if self.folder else None
        facts = self.last.manifest if self.last else {}
        dataset, self.shards = sim.load()
        module = sim.initial_model(dataset)
        task = Task(module, dataset.loss)
        self.P, self.initial = task.P, task.initial()
        self.channel = Channel(sim.seed, sim.uplink, sim.downlink, tuple(task.shapes))
        for caution in self.channel.cautions():
            warnings.warn(caution, stacklevel=2)
        device = device_of(sim.placement)
        size = sim.cohort_size(self.shards.number)
        state = sim.local.optimizer.init(self.initial.unsqueeze(0))
        row = task.P + sum(rows.shape[1] for rows in state.values())
        form = facts.get("form") or choose_form(
            sim.execution.form, task, examples_of(dataset, self.shards), device
        )
        self.block = (
            facts.get("block")
            or sim.execution.block
            or choose_block(size, row, device, int(sim.local.steps_of(self.shards.sizes_N).max(initial=0)))
        )
        first = "stacked" if form == "fastest" else form
        setup = Setup(dataset, self.shards, module, sim.local, sim.seed, first)
        tell = lambda text: self._tell("waiting", text=text)
        self.fleet = started(setup, sim.placement, device, tell, self.reserved)
        self.form = self._fastest(task) if form == "fastest" else form
        self._tell(
            "prepared",
            clients=self.shards.number,
            cohort=size,
            parameters=self.P,
            form=self.form,
            block=self.block,
            examples=int(self.shards.start_N[-1]),
            rounds=sim.rounds,
        )
        return self._begin()

    def _fastest(self, task: Task) -> str:
        forms = ["loop", "stacked", "compiled"] + (["inplace"] if task.chain is not None else [])
        seconds = self.fleet.time_forms(forms, self._plan(0), self.initial)
        best = min(forms, key=lambda form: seconds[form])
        self.fleet.set_form(best)
        self._tell("timed", seconds=seconds, form=best)
        return best

    def _begin(self) -> Server:
        """The first server, or that of the last checkpoint."""
        if self.last:
            return self._restore()
        server = Server(self.initial)
        if self.folder:
            self.folder.truncate(-1)
            self._status("running", server)
        self._evaluate(server, None)
        return server

    def _restore(self) -> Server:
        """Everything as the last checkpoint has it (or as at the start, if there is none yet)."""
        if self.last is None:
            self.tally, self.rows = Tally(), []
            self.fleet.load_rows([])
            return self._begin()
        self.tally = Tally(**self.last.manifest["tally"])
        self.fleet.load_rows(self.last.rows())
        server = self.last.server()
        self.keeps_rows = self.last.manifest["row_files"] > 0
        if self.folder:
            self.rows = self.folder.truncate(server.round)
            self._status("running", server)
        self._tell("resumed", round=server.round)
        return server

    def _rounds(self, server: Server) -> Outcome:
        sim, lost = self.simulation, 0
        while server.round < sim.rounds and not self.stopping:
            clients = self._clients(server)
            try:
                with self._warnings_told():
                    seen = self._probe(clients, server, after=False)
                    begin = time.perf_counter()
                    after = clients.settled(sim.rule.round(clients, server))
            except HostLost as error:
                lost += 1
                if lost > RETRIES:
                    raise
                self._tell("warning", text=f"{error} Round {server.round} is done again.")
                server = self._restore() if self.keeps_rows else server
                continue
            self.keeps_rows = self.keeps_rows or getattr(self.fleet, "keeps_rows", False)
            lost, after = 0, dataclasses.replace(after, round=server.round + 1)
            self._count(clients, time.perf_counter() - begin)
            if not self._healthy(after, clients):
                return self._diverged(server, after, clients)
            server = after
            try:
                with self._warnings_told():
                    clients.notes |= seen | self._probe(clients, server, after=True)
                    self._after(server, clients)
            except HostLost as error:
                server = self._back(error)
        return self._finish(server)

    def _back(self, error: HostLost) -> Server:
        """The last checkpoint, in place of a state that died between rounds with rows that clients keep."""
        self.gone += 1
        if self.gone > RETRIES:
            raise error
        self._tell("warning", text=f"{error} Going back to the last checkpoint.")
        return self._restore()

    def _clients(self, server: Server) -> Clients:
        """The rule's handle on the next round's cohort."""
        plan = self._plan(server.round)
        return Clients(self.fleet, plan, self.P, self.shards.number, self.channel, server.state)

    def _due(self, round: int) -> bool:
        """Whether the state after so many rounds is evaluated."""
        return round % self.simulation.evaluate_every == 0 or round == self.simulation.rounds

    def _probe(self, clients: Clients, server: Server, after: bool) -> dict[str, float]:
        """What the probes see before or after a round that is evaluated."""
        sim = self.simulation
        probes = [p for p in sim.probes if p.after == after] if self._due(clients.round + 1) else []
        return probed(probes, clients, sim.rule, server)

    def _plan(self, round: int) -> Any:
        sim = self.simulation
        ids = cohort_ids(sim.seed, round, self.shards.number, sim.cohort_size(self.shards.number))
        return plan(sim.local, self.shards, ids, round, self.block, neighbours=sim.rule.own_models)

    def _count(self, clients: Clients, seconds: float) -> None:
        t = self.tally
        t.bits_up, t.bits_down = t.bits_up + clients.bits_up, t.bits_down + clients.bits_down
        t.client_updates, t.seconds = t.client_updates + clients.number, t.seconds + seconds

    def _healthy(self, server: Server, clients: Clients) -> bool:
        return server.finite and all(math.isfinite(v) for v in clients.measured().values())

    def _after(self, server: Server, clients: Clients) -> None:
        """Evaluate and write a checkpoint where they are due, and tell."""
        sim = self.simulation
        if self._due(server.round):
            self._evaluate(server, clients)
        self._tell(
            "round",
            round=server.round,
            client_updates=self.tally.client_updates,
            seconds=self.tally.seconds,
            **clients.measured(),
        )
        if sim.checkpoint_every and server.round % sim.checkpoint_every == 0 and server.round < sim.rounds:
            self._checkpoint(server)

    def _evaluate(self, server: Server, clients: Clients | None) -> None:
        loss, accuracy = self.fleet.evaluate(server.x_P)
        row: dict[str, Any] = {"round": server.round, "loss": loss}
        if accuracy is not None:
            row["accuracy"] = accuracy
        self._record(row, clients)

    def _record(self, row: dict[str, Any], clients: Clients | None) -> None:
        row |= clients.measured() if clients else {}
        tally = dataclasses.asdict(self.tally)
        seconds = tally.pop("seconds")
        row |= {**tally, "seconds": seconds}
        self.rows.append(row)
        if self.folder:
            self.folder.append(row)
        self._tell("metrics", **row)

    def _diverged(self, before: Server, after: Server, clients: Clients) -> Outcome:
        """Not a number, or infinite: keep what there is and say so."""
        self._record({"round": after.round, "loss": math.nan}, clients)
        return self._close("diverged", before, after.round)

    def _finish(self, server: Server) -> Outcome:
        try:
            with self._warnings_told():
                self._checkpoint(server)
        except HostLost as error:
            return self._rounds(self._back(error))
        return self._close(
            "stopped" if server.round < self.simulation.rounds else "finished", server, server.round
        )

    def _close(self, status: str, server: Server, round: int) -> Outcome:
        with self._warnings_told():
            if self.folder:
                self._status(status, server)
                self.folder.table()
        self._tell("ended", status=status, round=round)
        return Outcome(status, server, self.rows, self.form, self.block, self.tally.seconds)

    def _checkpoint(self, server: Server) -> None:
        if self.folder is None or (self.last and self.last.manifest["round"] == server.round):
            return
        facts = {"form": self.form, "block": self.block, "tally": dataclasses.asdict(self.tally)}
        self.last = self.folder.save(server, self.fleet.save_rows, facts)
        self.gone = 0
        self._tell("checkpoint", round=server.round)

    def _status(self, status: str, server: Server) -> None:
        assert self.folder is not None
        self.folder.status(
            status=status,
            round=server.round,
            rounds=self.simulation.rounds,
            form=self.form,
            block=self.block,
            seconds=self.tally.seconds,
            client_updates=self.tally.client_updates,
        )
