"""The fleet on Ray: client actors pinned to CPUs or fractions of GPUs, one call per actor and exchange.

Shared tensors travel as numpy arrays, put once into the object store (readers map them without a copy; a torch tensor
would be copied for every reader). Partial sums come back, not rows. Rows that clients keep stay on the actor that
worked on them last; the few that a new cohort moves go from actor to actor.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.cloudpickle
import torch
from ray.exceptions import (
    GetTimeoutError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
)
from torch import Tensor

from raysim.core import cohorts
from raysim.core.cohorts import Plan
from raysim.core.host import Partial, Setup
from raysim.core.placement import Placement
from raysim.runtime import mailbox, placing
from raysim.runtime.checkpoint import CheckpointError
from raysim.runtime.client_actor import Beside, ClientActor
from raysim.runtime.fleet import HostLost, chunks, pooled
from raysim.runtime.mailbox import Mailbox, Slip

LOST = (RayActorError, ObjectLostError, OutOfMemoryError)


class RayFleet:
    """Client actors.

    Args:
        setup: the experiment, ready to run.
        placement: how many actors, on what.
    """

    def __init__(self, setup: Setup, placement: Placement) -> None:
        self.setup, self.placement = setup, placement
        self.chunks = chunks(setup)
        self.keeps_rows = False
        self.owner_N = np.full(setup.shards.number, -1, np.int64)
        data = setup.dataset
        arrays = (data.x_train, data.y_train, data.x_test, data.y_test)
        self._arrays = [ray.put(np.ascontiguousarray(a)) for a in arrays]
        nothing = np.empty(0)
        self._light = ray.put(
            replace(
                setup,
                dataset=replace(
                    data, x_train=nothing, y_train=nothing, x_test=nothing, y_test=nothing, groups=None
                ),
            )
        )
        self.group = placing.reserve(placement)
        self.mailboxes: list[Mailbox | None] = [None] * placement.actors
        try:
            self.actors = [self._start(i) for i in range(placement.actors)]
            self._await(list(range(placement.actors)))
        except BaseException:
            self.close()
            raise

    def _start(self, i: int) -> Any:
        options = placing.options(self.placement, self.group, i)
        actor = ray.remote(**options)(ClientActor)
        return actor.remote(self._light, self.placement.threads, self.placement.gpus_per_actor, *self._arrays)

    def _await(self, indices: list[int]) -> None:
        """Wait until these actors have started, and share a mailbox with those on this machine."""
        self._get([self.actors[i].pid.remote() for i in indices], placing.START)
        for i in indices:
            made = mailbox.create(len(self.actors))
            try:
                here = made is not None and self._get(self.actors[i].join.remote(made[1]))
                self.mailboxes[i] = made[0] if made and here else None
            finally:
                if made:
                    mailbox.forget(made[1])

    def _get(self, refs: Any, timeout: float | None = None) -> Any:
        """Results; the client's own error where there was one, HostLost where actors died."""
        timeout = timeout or self.placement.timeout
        try:
            return ray.get(refs, timeout=timeout)
        except RayTaskError as error:
            raise error.cause from None
        except GetTimeoutError:
            raise RuntimeError(
                f"Client actors did not answer within {timeout:.0f} s. If a round takes so long, raise "
                "placement.timeout; otherwise see `ray status` for what the cluster waits for."
            ) from None

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
        posted = self._posted(shared, [i for i, _ in parts])
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
            raise HostLost(self._replace_dead(error)) from None
        for (i, part), (partial, told) in zip(parts, answers, strict=True):
            self.keeps_rows = self.keeps_rows or partial.keeps
            if partial.keeps:
                self.owner_N[part.ids_C] = i
            for text in told:
                warnings.warn(text, stacklevel=2)  # which the coordinator passes on
        return [self._received(i, partial) for (i, _), (partial, _) in zip(parts, answers, strict=True)]

    def _posted(self, shared: tuple[Any, ...], indices: list[int]) -> dict[int, tuple[list[Any], list[Any]]]:
        """Shared values for each actor, and what travels beside its call.

        Tensors are slips where the actor has a mailbox with room; for all other actors they are put into the object
        store once (or sent along, small as they are).
        """
        posted: dict[int, tuple[list[Any], list[Any]]] = {i: ([], []) for i in indices}
        boxes = {i: box for i in indices if (box := self.mailboxes[i])}
        for box in boxes.values():
            box.begin()
        for value in shared:
            array = value.detach().cpu().contiguous().numpy() if isinstance(value, Tensor) else None
            sent = None
            for i, (values, large) in posted.items():
                slip = boxes[i].put(0, array) if array is not None and i in boxes else None
                if array is not None and slip is None:
                    sent = self._sent(value) if sent is None else sent
                    values.append(Beside(len(large)))
                    large.append(sent)
                else:
                    values.append(value if slip is None else slip)
        return posted

    def _received(self, i: int, partial: Partial) -> Partial:
        """An actor's tensors, copied: slips lead into memory it will overwrite, the object store is read-only."""
        box = self.mailboxes[i]
        read = lambda v: torch.from_numpy(np.array(box.get(v) if box and isinstance(v, Slip) else v))
        copies = lambda values: tuple(read(v) for v in values)
        nodes = {n: copies(v) for n, v in partial.nodes.items()}
        return replace(partial, nodes=nodes, rows=[copies(r) for r in partial.rows])

    def _sent(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        array = value.detach().cpu().contiguous().numpy()
        return ray.put(array) if array.nbytes > placing.inline_bytes() else array

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

    def _replace_dead(self, error: BaseException) -> str:
        """Start new actors in place of those that do not answer; says which."""
        dead = []
        for i, actor in enumerate(self.actors):
            try:
                ray.get(actor.pid.remote(), timeout=placing.START)
            except (*LOST, GetTimeoutError):
                dead.append(i)
                ray.kill(actor)
                self.actors[i] = self._start(i)
        self._await(dead)
        self._form_again(dead)
        self.owner_N[:] = -1
        kind = type(error).__name__
        return f"Client actor{'s' if len(dead) > 1 else ''} {', '.join(map(str, dead))} died ({kind}) and started anew."

    def _form_again(self, indices: list[int]) -> None:
        if getattr(self, "form", None):
            self._get([self.actors[i].set_form.remote(self.form) for i in indices])

    # ---- evaluation, timing, checkpoints ---------------------------------------------------------------------

    def evaluate(self, x_P: Tensor) -> tuple[float, float | None]:
        """Mean loss and accuracy on the test set, chunks spread over actors, summed in their order."""
        shares = np.array_split(np.array(self.chunks), len(self.actors))
        x = self._sent(x_P)
        for attempt in range(3):
            busy = [(a, s.tolist()) for a, s in zip(self.actors, shares, strict=True) if len(s)]
            try:
                parts = self._get([a.evaluate.remote(x, s) for a, s in busy])
                return pooled([p for part in parts for p in part])
            except LOST as error:
                text = self._replace_dead(error)
                if attempt == 2 or self.keeps_rows:
                    raise HostLost(text) from None
                warnings.warn(text, stacklevel=2)
        raise AssertionError

    def time_forms(self, forms: list[str], plan: Plan, x_P: Tensor) -> dict[str, float]:
        """Seconds for the first block in each form, on the first actor."""
        x = self._sent(x_P)
        return {form: self._get(self.actors[0].time_form.remote(form, plan.part(0, 1), x)) for form in forms}

    def set_form(self, form: str) -> None:
        """Train in this form from here on."""
        self.form = form
        self._form_again(list(range(len(self.actors))))

    def save_rows(self, folder: Path) -> int:
        """Write the clients' rows beside a checkpoint, one file per actor that has some."""
        if not self.keeps_rows:
            return 0
        folder = folder.resolve()
        try:
            written = self._get(
                [a.save_rows.remote(folder / f"rows-{i}.safetensors") for i, a in enumerate(self.actors)]
            )
        except LOST as error:
            raise CheckpointError(self._replace_dead(error)) from None
        files = sorted(folder.glob("rows-*.safetensors"))
        if len(files) != sum(written):
            raise CheckpointError(
                f"{sum(written)} actors wrote rows but {len(files)} files are in {folder}: the folder is not shared "
                "between the nodes. Put the run on storage that all nodes mount."
            )
        for number, file in enumerate(files):
            file.rename(folder / f"rows-{number}.safetensors")
        return len(files)

    def load_rows(self, files: list[Path]) -> None:
        """Start from the rows of a checkpoint, files dealt to actors in turn."""
        number = len(self.actors)
        shares = [[f.resolve() for f in files[i::number]] for i in range(number)]
        owned = self._get([a.load_rows.remote(s) for a, s in zip(self.actors, shares, strict=True)])
        self.owner_N[:] = -1
        for i, ids in enumerate(owned):
            self.owner_N[ids] = i
        self.keeps_rows = bool(files)

    def close(self) -> None:
        """End the actors and give their resources back."""
        for actor in getattr(self, "actors", []):
            ray.kill(actor)
        if self.group is not None:
            try:
                ray.util.remove_placement_group(self.group)
            except RayError:
                time.sleep(0)  # the cluster is gone, and the group with it
