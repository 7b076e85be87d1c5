"""A client actor: one host in a Ray worker. A plain class; ``ray_fleet.py`` wraps it."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.cloudpickle
import torch

from raysim.core.cohorts import Plan
from raysim.core.host import Host, Partial, Setup
from raysim.core.interfaces import as_tensor
from raysim.core.mixing import Mixing
from raysim.runtime import checkpoint, mailbox, telemetry
from raysim.runtime.mailbox import Address, Mailbox, Slip
from raysim.runtime.post import Beside

PAGE = 4096  # bytes


class ClientActor:
    """Hosts clients in this process.

    Args:
        setup: the experiment without its arrays.
        threads: torch threads.
        fraction: share of a GPU that this actor may use; 0 computes on the CPU.
        arrays: x_train, y_train, x_test, y_test, read from the node's object store without a copy.
    """

    def __init__(self, setup: Setup, threads: int, fraction: float, *arrays: np.ndarray) -> None:
        torch.set_num_threads(threads)
        if fraction > 0:
            torch.cuda.set_per_process_memory_fraction(fraction)
        for array in arrays:
            touch(array)
        names = ("x_train", "y_train", "x_test", "y_test")
        dataset = replace(setup.dataset, **dict(zip(names, arrays, strict=True)))
        self.host = Host(replace(setup, dataset=dataset), "cuda" if fraction > 0 else "cpu")
        self.mailbox: Mailbox | None = None

    def pid(self) -> int:
        """Process id, and a sign of life."""
        return os.getpid()

    def node(self) -> str:
        """Id of the node that this process is on."""
        return ray.get_runtime_context().get_node_id()

    def resident(self) -> int:
        """Bytes of memory that this process holds."""
        return telemetry.resident()

    def join(self, address: Address) -> bool:
        """Open the mailbox that the coordinator made for this actor, if it is on this machine."""
        self.mailbox = mailbox.join(address)
        return self.mailbox is not None

    def exchange(self, call: bytes, *large: np.ndarray) -> tuple[Partial, list[str]]:
        """``Host.exchange`` with arrays or slips for tensors both ways; also the warnings it raised.

        Args:
            call: function, plan, reduction and shared values, pickled as one (each argument of its own would cost a
                tenth of a millisecond); ``Beside`` in the place of a tensor that is not in the mailbox.
            large: shared values that came through the object store.
        """
        function, plan, reduce, measure, values = ray.cloudpickle.loads(call)
        shared = tuple(self._opened(v, large) for v in values)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            partial = self.host.exchange(function, shared, plan, reduce, measure)
        told = [str(w.message) for w in caught if issubclass(w.category, (UserWarning, ResourceWarning))]
        if self.mailbox:
            self.mailbox.begin()
        nodes = {node: self._posted(value) for node, value in partial.nodes.items()}
        return replace(partial, nodes=nodes, rows=[self._posted(r) for r in partial.rows]), told

    def _opened(self, value: Any, large: tuple[np.ndarray, ...]) -> Any:
        if isinstance(value, Slip):
            assert self.mailbox is not None
            return as_tensor(self.mailbox.get(value))
        return as_tensor(large[value.number]) if isinstance(value, Beside) else value

    def _posted(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """Tensors as slips where the mailbox has room, else as arrays."""
        arrays = tuple(v.cpu().numpy() for v in values)
        slips = (self.mailbox.put(1, a) if self.mailbox else None for a in arrays)
        return tuple(a if slip is None else slip for a, slip in zip(arrays, slips, strict=True))

    def pick(self, name: str, ids: np.ndarray) -> np.ndarray:
        """Copies of rows that clients keep here."""
        return self.host.rows.pick(name, ids).cpu().numpy()

    def mix(self, name: str, mixing: Mixing, halo_ids: list[np.ndarray], *halo: np.ndarray) -> int:
        """``Host.mix``; the halo in parts, each from one other actor; returns the rows' width."""
        if halo:
            rows_HP = torch.from_numpy(np.concatenate(halo)).to(self.host.device)
            self.host.mix(name, mixing, np.concatenate(halo_ids), rows_HP)
        else:
            self.host.mix(name, mixing)
        return len(self.host.rows.fills[name])

    def evaluate(self, x_P: np.ndarray, chunks: list[int]) -> list[tuple[float, float | None, int]]:
        """``Host.evaluate``."""
        return self.host.evaluate(as_tensor(x_P), chunks)

    def time_form(self, form: str, plan: Plan, x_P: np.ndarray) -> float:
        """``Host.time_form``."""
        return self.host.time_form(form, plan, as_tensor(x_P))

    def set_form(self, form: str) -> None:
        """``Host.set_form``."""
        self.host.set_form(form)

    def fills(self) -> dict[str, np.ndarray]:
        """The rows that a client starts with."""
        return {name: v.cpu().numpy() for name, v in self.host.rows.fills.items()}

    def give(self, ids: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Hand clients' rows over; they are forgotten here."""
        return self.host.rows.give(ids), self.fills()

    def take(self, ids: np.ndarray, given: tuple[dict[str, np.ndarray], dict[str, np.ndarray]]) -> None:
        """Accept clients' rows from another actor."""
        self.host.rows.take(ids, *given)

    def save_rows(self, file: Path) -> int:
        """Write this host's rows; returns the number of files."""
        return checkpoint.save_rows(self.host.rows, file)

    def rows_packed(self) -> np.ndarray:
        """This host's rows as the bytes of a file, for a coordinator on another node."""
        return np.frombuffer(checkpoint.rows_packed(self.host.rows), np.uint8)

    def load_rows(self, files: list[Path], *contents: np.ndarray) -> np.ndarray:
        """Replace this host's rows by those of files, or of what is in them; returns their clients."""
        return checkpoint.load_rows(self.host.rows, [*files, *(c.tobytes() for c in contents)])


def touch(array: np.ndarray) -> None:
    """Map every page of an array in shared memory now, so that no round stops for page faults."""
    array.reshape(-1)[:: max(1, PAGE // array.itemsize)].sum()
