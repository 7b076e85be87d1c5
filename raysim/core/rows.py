"""Row state: what a client keeps from round to round (optimiser state, control variates, its own model).

A host stores the rows of the clients it has worked on, one tensor per name, one slot per client. A block whose clients
lie in consecutive slots works on a view; any other block on a copy that is written back. Rows are padded to whole cache
lines, in both: see ``layout.py``.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from raysim.core.layout import padded


class RowStore:
    """Named rows by client id.

    Args:
        device: where rows live.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = device
        self.slot: dict[int, int] = {}
        self.tensors: dict[str, Tensor] = {}
        self.fills: dict[str, Tensor] = {}
        self._spares: dict[str, Tensor] = {}

    def checkout(self, ids_C: np.ndarray, name: str, fill_P: Tensor) -> tuple[Tensor, Tensor | None]:
        """Rows ``name`` of the clients, and the slots to write them back to (None for a view that needs no writing).

        Clients without the row get ``fill_P``.
        """
        self.admit(ids_C)
        if name not in self.tensors:
            self._new(name, fill_P)
        return self._at(name, self.slots(ids_C))

    def look(self, ids_C: np.ndarray, name: str) -> Tensor:
        """Rows ``name`` of clients that have them, to read only."""
        return self._at(name, self.slots(ids_C))[0]

    def _at(self, name: str, slots: np.ndarray) -> tuple[Tensor, Tensor | None]:
        width = len(self.fills[name])
        if (np.diff(slots) == 1).all():
            return self.tensors[name][slots[0] : slots[0] + len(slots), :width], None
        index = torch.from_numpy(slots).to(self.device)
        return self.tensors[name].index_select(0, index)[:, :width], index

    def borrow(self, ids_C: np.ndarray, name: str, fill_P: Tensor) -> Tensor:
        """A copy of rows ``name`` of the clients to do anything with; clients without the row get ``fill_P``."""
        if name in self.tensors:
            return self.checkout(ids_C, name, fill_P)[0].clone()
        return fill_P.to(self.device).repeat(len(ids_C), 1)

    def write(self, name: str, rows_CP: Tensor, slots: Tensor) -> None:
        """Put back a copy that ``checkout`` gave."""
        self.tensors[name][:, : rows_CP.shape[1]].index_copy_(0, slots, rows_CP)

    def slots(self, ids: np.ndarray) -> np.ndarray:
        """Where the rows of these clients are in the tensors."""
        return np.fromiter((self.slot[int(i)] for i in ids), np.int64, len(ids))

    def pick(self, name: str, ids: np.ndarray) -> Tensor:
        """A copy of rows ``name`` of these clients, [len(ids), width]."""
        index = torch.from_numpy(self.slots(ids)).to(self.device)
        return self.tensors[name].index_select(0, index)[:, : len(self.fills[name])]

    def spare(self, name: str) -> Tensor:
        """Memory like that of rows ``name``, kept for the next time: fresh memory costs more than the work in it."""
        old, spare = self.tensors[name], self._spares.pop(name, None)
        return torch.zeros_like(old) if spare is None or spare.shape != old.shape else spare

    def swap(self, name: str, new: Tensor) -> None:
        """Let memory that ``spare`` gave hold the rows from here on."""
        self._spares[name], self.tensors[name] = self.tensors[name], new

    def give(self, ids: Iterable[int]) -> dict[str, np.ndarray]:
        """Hand the rows of these clients over to another host: they are forgotten here."""
        rows = self.peek(ids)
        for i in ids:
            del self.slot[int(i)]
        return rows

    def peek(self, ids: Iterable[int]) -> dict[str, np.ndarray]:
        """Copies of the rows of these clients, in the order asked for."""
        slots = torch.tensor([self.slot[int(i)] for i in ids], dtype=torch.int64, device=self.device)
        pick = lambda name: self.tensors[name].index_select(0, slots)[:, : len(self.fills[name])].contiguous()
        return {name: pick(name).cpu().numpy() for name in self.tensors}

    def take(self, ids: np.ndarray, rows: dict[str, np.ndarray], fills: dict[str, np.ndarray]) -> None:
        """Accept rows that another host gave or a checkpoint held."""
        self.admit(ids)
        slots = torch.tensor([self.slot[int(i)] for i in ids], dtype=torch.int64, device=self.device)
        for name, values in rows.items():
            if name not in self.tensors:
                self._new(name, torch.from_numpy(np.array(fills[name])))
            self.write(name, torch.from_numpy(np.array(values)).to(self.device), slots)

    def _new(self, name: str, fill_P: Tensor) -> None:
        self.fills[name] = fill_P.to(self.device).clone()
        self.tensors[name] = self._filled(name, self._capacity())

    def _filled(self, name: str, rows: int) -> Tensor:
        fill = self.fills[name]
        tensor = fill.new_zeros(rows, padded(len(fill), fill.dtype))
        tensor[:, : len(fill)] = fill
        return tensor

    def _capacity(self) -> int:
        return max([len(self.slot), 1 + max(self.slot.values(), default=-1)])

    def admit(self, ids_C: np.ndarray) -> None:
        """Give slots to clients not seen before: all of a round at once, so that blocks are views."""
        new = [int(i) for i in ids_C if int(i) not in self.slot]
        if not new:
            return
        used = set(self.slot.values())
        size = next((len(t) for t in self.tensors.values()), 0)
        free = [s for s in range(size) if s not in used] if len(used) < size else []
        fresh = range(max(size, len(used)), max(size, len(used)) + len(new))
        for i, s in zip(new, [*free, *fresh], strict=False):
            self.slot[i] = s
        grown = self._capacity()
        for name, old in self.tensors.items():
            kept = [s for s in free[: len(new)] if s < len(old)]
            old[kept, : len(self.fills[name])] = self.fills[name]
            if grown > len(old):
                self.tensors[name] = torch.cat([old, self._filled(name, grown - len(old))])
