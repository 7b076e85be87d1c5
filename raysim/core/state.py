"""Rows that clients keep from round to round, as one block of them sees its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from raysim.core.host import Host


class State:
    """Rows that belong to a block's clients and outlive the round. Rows handed out may be written in place.

    Args:
        host: where they live.
        ids_C: the clients.
        borrow: hand out copies and forget what is written to them: for measurements, which change nothing.
    """

    def __init__(self, host: Host, ids_C: np.ndarray, borrow: bool = False) -> None:
        self._host, self._ids_C, self._borrow = host, ids_C, borrow
        self._out: dict[str, tuple[Tensor, Tensor | None]] = {}

    def rows(self, name: str, fill_P: Tensor) -> Tensor:
        """Rows ``name`` [C, len(fill_P)]; a client that has none yet starts with ``fill_P``."""
        if name not in self._out:
            self._out[name] = (
                (self._host.rows.borrow(self._ids_C, name, fill_P), None)
                if self._borrow
                else self._host.rows.checkout(self._ids_C, name, fill_P)
            )
        return self._out[name][0]

    def look(self, name: str) -> Tensor:
        """Rows ``name``, which every client has, to read and not to write: no copy where they lie side by side."""
        return self._out[name][0] if name in self._out else self._host.rows.look(self._ids_C, name)

    def handed(self) -> list[Tensor]:
        """The rows handed out so far."""
        return [rows for rows, _ in self._out.values()]

    def commit(self) -> None:
        """Write copies back to the host's store."""
        for name, (rows, slots) in self._out.items():
            if slots is not None:
                self._host.rows.write(name, rows, slots)
