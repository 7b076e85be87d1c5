"""The fleet on Ray: client actors pinned to CPUs or fractions of GPUs, one call per actor and exchange.

Shared tensors travel as numpy arrays, put once into the object store (readers map them without a copy; a torch tensor
would be copied for every reader). Partial sums come back, not rows. Rows that clients keep stay on the actor that
worked on them last; the few that a new cohort moves go from actor to actor.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.cloudpickle
import torch
from torch import Tensor

from raysim.core import cohorts
from raysim.core.cohorts import Plan
from raysim.core.host import Partial, Setup
from raysim.core.mixing import Mixing
from raysim.core.placement import Placement
from raysim.runtime import placing
from raysim.runtime.crew import LOST, Crew
from raysim.runtime.fleet import HostLost, chunks, pooled
from raysim.runtime.post import sent


class RayFleet(Crew):
    """Client actors.

    Args:
        setup: the experiment, ready to run.
        placement: how many actors, on what.
        tell: called with what is waited for.
        reserved: room for them; None to reserve it.
    """

    def __init__(
        self,
        setup: Setup,
        placement: Placement,
        tell: Callable[[str], Any] = lambda _: None,
        reserved: placing.Reserved | None = None,
    ) -> None:
        super().__init__(setup, placement, tell, reserved)
        self.chunks = chunks(setup)
        self.keeps_rows = False
        self.owner_N = np.full(setup.shards.number, -1, np.int64)

    def _lost(self, error: BaseException) -> HostLost:
        """What to raise when actors died: others are in their place by then, and rows that clients keep are gone."""
        text = self.replace_dead(error)
        self.owner_N[:] = -1
        return HostLost(text)

    # ---- exchanges -------------------------------------------------------------------------------------------

    def exchange(
        self,
        function: Callable[..., Any],
        shared: tuple[Any, ...],
        plan: Plan,
        reduce: str,
        measure: bool = False,
    ) -> list[Partial]:
        """Run a client function on every actor's run of blocks."""
        runs = cohorts.runs(plan, self.setup.local, self.setup.shards, len(self.actors))
        parts = [(i, plan.part(a, b)) for i, (a, b) in enumerate(runs) if b > a]
        posted = self.post.posted(shared, [i for i, _ in parts])
        try:
            if self.keeps_rows:
                self._move(parts)
            refs = []
            for i, part in parts:
                values, large = posted[i]
                call = ray.cloudpickle.dumps((function, part, reduce, measure, values))
                refs.append(self.actors[i].exchange.remote(call, *large))
            answers = self._get(refs)
        except LOST as error:
            raise self._lost(error) from None
        for (i, part), (partial, told) in zip(parts, answers, strict=True):
            self.keeps_rows = self.keeps_rows or partial.keeps
            if partial.keeps:
                self.owner_N[part.ids_C] = i
            for text in told:
                warnings.warn(text, stacklevel=2)  # which the coordinator passes on
        return [self.post.received(i, partial) for (i, _), (partial, _) in zip(parts, answers, strict=True)]

    def mix(self, name: str, mixing: Mixing) -> int:
        """Replace clients' rows by weighted sums of their neighbours': only rows that cross actors travel.

        Every actor first copies what others need of it; those calls stand before any that change rows.
        """
        owner_C = self.owner_N[mixing.ids_C]
        parts, halos = {}, {}
        for i in np.unique(owner_C):
            parts[i] = mixing.part(np.flatnonzero(owner_C == i))
            far = np.unique(parts[i].neighbour_E[self.owner_N[parts[i].neighbour_E] != i])
            halos[i] = {j: far[self.owner_N[far] == j] for j in np.unique(self.owner_N[far])}
        try:
            given = {
                i: [self.actors[j].pick.remote(name, ids) for j, ids in halo.items()]
                for i, halo in halos.items()
            }
            calls = [
                self.actors[i].mix.remote(name, parts[i], list(halos[i].values()), *given[i]) for i in parts
            ]
            return self._get(calls)[0]
        except LOST as error:
            raise self._lost(error) from None

    def fetch(self, name: str, ids: np.ndarray) -> Tensor:
        """Rows of some clients, in that order."""
        owner_K = self.owner_N[ids]
        owners = np.unique(owner_K)
        try:
            parts = self._get([self.actors[i].pick.remote(name, ids[owner_K == i]) for i in owners])
        except LOST as error:
            raise self._lost(error) from None
        rows_KP = torch.empty(len(ids), parts[0].shape[1])
        for i, part in zip(owners, parts, strict=True):
            rows_KP[torch.from_numpy(np.flatnonzero(owner_K == i))] = torch.from_numpy(np.array(part))
        return rows_KP

    def _move(self, parts: list[tuple[int, Plan]]) -> None:
        """Bring kept rows to the actors that need them now."""
        waiting = []
        for i, part in parts:
            owners = self.owner_N[part.ids_C]
            for other in np.unique(owners[(owners >= 0) & (owners != i)]):
                ids = part.ids_C[owners == other]
                given = self.actors[other].give.remote(ids)
                waiting.append(self.actors[i].take.remote(ids, given))
        self._get(waiting)

    # ---- evaluation, timing, checkpoints ---------------------------------------------------------------------

    def evaluate(self, x_P: Tensor) -> tuple[float, float | None]:
        """Mean loss and accuracy on the test set, chunks spread over actors, summed in their order."""
        shares = np.array_split(np.array(self.chunks), len(self.actors))
        x = sent(x_P)
        for attempt in range(3):
            busy = [(a, s.tolist()) for a, s in zip(self.actors, shares, strict=True) if len(s)]
            try:
                parts = self._get([a.evaluate.remote(x, s) for a, s in busy])
                return pooled([p for part in parts for p in part])
            except LOST as error:
                lost = self._lost(error)
                if attempt == 2 or self.keeps_rows:
                    raise lost from None
                warnings.warn(str(lost), stacklevel=2)
        raise AssertionError

    def time_forms(self, forms: list[str], plan: Plan, x_P: Tensor) -> dict[str, float]:
        """Seconds for the first block in each form, on the first actor."""
        x, first = sent(x_P), plan.part(0, 1)
        try:
            return {form: self._get(self.actors[0].time_form.remote(form, first, x)) for form in forms}
        except LOST as error:
            raise self._lost(error) from None

    def save_rows(self, folder: Path) -> int:
        """Write the clients' rows beside a checkpoint, one file per actor that has some.

        Actors on this node write their own; rows from other nodes come through the object store.
        """
        if not self.keeps_rows:
            return 0
        files = [folder.resolve() / f"rows-{i}.aside" for i in range(len(self.actors))]
        calls = [
            a.save_rows.remote(file) if near else a.rows_packed.remote()
            for a, file, near in zip(self.actors, files, self.near, strict=True)
        ]
        try:
            for i, file in enumerate(files):  # one by one: this node may not have room for all of them
                answer, calls[i] = self._get(calls[i]), None
                if not self.near[i] and len(answer):
                    file.write_bytes(answer)
        except LOST as error:
            raise self._lost(error) from None
        written = [file for file in files if file.exists()]
        for number, file in enumerate(written):
            file.rename(file.with_name(f"rows-{number}.safetensors"))
        return len(written)

    def load_rows(self, files: list[Path]) -> None:
        """Start from the rows of a checkpoint, files dealt to actors in turn."""
        for attempt in range(3):
            try:
                owned = self._get(
                    [self._load(i, files[i :: len(self.actors)]) for i in range(len(self.actors))]
                )
                break
            except LOST as error:
                lost = self._lost(error)
                if attempt == 2:
                    raise lost from None
        else:
            raise AssertionError
        self.owner_N[:] = -1
        for i, ids in enumerate(owned):
            self.owner_N[ids] = i
        self.keeps_rows = bool(files)

    def _load(self, i: int, files: list[Path]) -> Any:
        if self.near[i]:
            return self.actors[i].load_rows.remote([f.resolve() for f in files])
        return self.actors[i].load_rows.remote([], *(ray.put(np.fromfile(f, np.uint8)) for f in files))
