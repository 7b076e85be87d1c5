"""Shared memory between the coordinator and a client actor on its node: arrays pass by one copy, calls carry slips.

Through a Ray call a vector of 200 KB costs about two milliseconds each way (it is serialised, framed and copied several
times); written into memory that both processes map it costs some microseconds. An actor elsewhere, or a message larger
than the memory, takes Ray's way: the mailbox is a short cut, never needed.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SHARED = Path("/dev/shm")
SIDE = 4 << 20  # bytes each way: beyond, the object store's own speed decides
MOST = 32  # actors that get one, so that many actors do not fill the shared memory
ALIGN = 64  # bytes, as in core/layout.py
TOKEN = 16  # bytes that tell this mailbox from a file of the same name on another machine


@dataclass(frozen=True)
class Slip:
    """Where in the mailbox an array lies."""

    offset: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Address:
    """What an actor needs to open its mailbox."""

    path: str
    token: bytes


class Mailbox:
    """One mapped file with two sides: 0 is written by the coordinator, 1 by the actor.

    A call and its answer alternate, so each side is overwritten from its beginning by every message (``begin``).
    """

    def __init__(self, memory: mmap.mmap) -> None:
        self._bytes = np.frombuffer(memory, np.uint8)
        self._side = (len(memory) - ALIGN) // 2 // ALIGN * ALIGN
        self._next = 0

    def begin(self) -> None:
        """Forget what this process wrote before."""
        self._next = 0

    def put(self, side: int, array: np.ndarray) -> Slip | None:
        """Copy an array in; None where it finds no room."""
        if array.nbytes > self._side - self._next:
            return None
        slip = Slip(ALIGN + side * self._side + self._next, array.shape, array.dtype.str)
        self.get(slip)[...] = array
        self._next += -(-array.nbytes // ALIGN) * ALIGN
        return slip

    def get(self, slip: Slip) -> np.ndarray:
        """The array a slip speaks of, in place: it lasts until the writer's next message."""
        dtype = np.dtype(slip.dtype)
        end = slip.offset + dtype.itemsize * int(np.prod(slip.shape))
        return self._bytes[slip.offset : end].view(dtype).reshape(slip.shape)


def create(actors: int, side: int = SIDE) -> tuple[Mailbox, Address] | None:
    """A new mailbox for one of so many actors; None where there is no shared memory to spare."""
    if actors > MOST or not SHARED.is_dir():
        return None
    size = ALIGN + 2 * side
    try:
        fd, path = tempfile.mkstemp(prefix="raysim-", dir=SHARED)
    except OSError:
        return None
    try:
        os.posix_fallocate(fd, 0, size)  # or a full disk would be a bus error at the first write
        memory = mmap.mmap(fd, size)
    except OSError:
        os.unlink(path)
        return None
    finally:
        os.close(fd)
    token = secrets.token_bytes(TOKEN)
    memory[:TOKEN] = token
    return Mailbox(memory), Address(path, token)


def join(address: Address) -> Mailbox | None:
    """The same mailbox from the actor's process; None on another machine."""
    try:
        with open(address.path, "r+b") as file:
            memory = mmap.mmap(file.fileno(), 0)
    except (OSError, ValueError):
        return None
    return Mailbox(memory) if memory[:TOKEN] == address.token else None


def forget(address: Address) -> None:
    """Remove the name; the memory lasts as long as a process maps it, so that none is left behind by a crash."""
    with contextlib.suppress(OSError):
        os.unlink(address.path)
