"""The channel between clients and server: what a round sends through it, in how many bits, and what is remembered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from raysim.core import streams
from raysim.core.cohort import Cohort, Table
from raysim.core.sending import Sender, Sending, check_order, hostile_ids, name_of
from raysim.core.transforms import Compressor, contraction

if TYPE_CHECKING:
    from raysim.core.transforms import Transform

FLOAT = 32  # bits


@dataclass(frozen=True)
class Channel:
    """What an experiment's messages go through.

    Args:
        seed: of the experiment.
        uplink: what becomes of rows that leave a client, in this order.
        downlink: how the server compresses what it sends to all clients; None sends it in full.
        shapes: of the model's parameters.
    """

    seed: int = 0
    uplink: tuple[Transform, ...] = ()
    downlink: Compressor | None = None
    shapes: tuple[torch.Size, ...] = ()

    def cautions(self) -> list[str]:
        """What a user should know before a run through this channel."""
        compressors = [t for t in self.uplink if isinstance(t, Compressor)]
        found = [text for c in compressors for text in c.cautions(list(self.shapes))]
        if self.downlink is not None:
            found += contraction("Simulation.downlink", self.downlink, list(self.shapes))
        if (self.uplink or self.downlink) and sum(s.numel() for s in self.shapes) == 1:
            found.append(
                "The model is one number, as are the counts and steps that some rules send too (FedNova, SharedStep): "
                "Simulation.uplink cannot tell them apart and acts on both."
            )
        return found


@dataclass(frozen=True)
class Message:
    """A shared value of which clients, who know the last one, need only these bits to have it.

    Args:
        value: what client functions receive.
        bits: that every client of the experiment downloads, in this round's cohort or not: it could not keep up else.
    """

    value: Tensor
    bits: int


class Entries(MutableMapping[str, Tensor]):
    """Those entries of a state whose names begin with a prefix."""

    def __init__(self, state: dict[str, Tensor], prefix: str) -> None:
        self._state, self._prefix = state, prefix

    def __getitem__(self, name: str) -> Tensor:
        return self._state[self._prefix + name]

    def __setitem__(self, name: str, value: Tensor) -> None:
        self._state[self._prefix + name] = value

    def __delitem__(self, name: str) -> None:
        del self._state[self._prefix + name]

    def __iter__(self) -> Iterator[str]:
        return (n.removeprefix(self._prefix) for n in self._state if n.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True)
class Desk:
    """The server's side of one transform in one round.

    Args:
        round: the round.
        number: clients in the cohort.
        total: clients in the experiment.
        state: tensors that the transform keeps at the server from round to round, to read and write.
        reports: this round's numbers per client, by name, [number].
        note: (name, value) -> None, for this round's metrics.
        key: a random key of this round and transform.
        ids_C: the cohort.
        rows: rows as long as the model that each client sent this round; known when the round is settled.
        equal: whether all of them weighed alike by design; likewise.
        keeps: whether clients keep rows from round to round; likewise.
    """

    round: int
    number: int
    total: int
    state: MutableMapping[str, Tensor]
    reports: Mapping[str, np.ndarray]
    note: Callable[[str, float], None]
    key: Tensor
    ids_C: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    rows: int = 0
    equal: bool = True
    keeps: bool = False


class Wire:
    """One round of a channel.

    Args:
        channel: what messages go through.
        ids_C: the cohort.
        round: the round.
        total: clients in the experiment.
        state: the server's state at the start of the round; ``kept`` is what changes in it.
        reports: the round's numbers per client.
        note: for the round's metrics.
    """

    def __init__(
        self,
        channel: Channel,
        ids_C: np.ndarray,
        round: int,
        total: int,
        state: Mapping[str, Tensor],
        reports: Mapping[str, np.ndarray],
        note: Callable[[str, float], None],
    ) -> None:
        self.channel, self.ids_C, self.total, self._round = channel, ids_C, total, round
        self.bits_down = 0
        self._rows, self._equal, self._keeps = 0, True, False
        self._state = dict(state)
        self._before = dict(state)
        self._received: list[tuple[Tensor, Tensor]] = []  # what was sent, and what clients have of it
        key = lambda i: streams.key(channel.seed, round, "uplink", i)
        self._desks = [
            Desk(round, len(ids_C), total, Entries(self._state, f"uplink.{i}."), reports, note, key(i), ids_C)
            for i in range(len(channel.uplink))
        ]

    @property
    def kept(self) -> dict[str, Tensor]:
        """Entries of the server's state that this round changed."""
        return {name: v for name, v in self._state.items() if v is not self._before.get(name)}

    # ---- down ------------------------------------------------------------------------------------------------

    def down(self, function: Callable[..., Any], shared: tuple[Any, ...], free: bool) -> tuple[Any, ...]:
        """Shared values as clients receive them, counted once a round each; ``free``: looked at, never sent."""
        return tuple(self._down(f"downlink.{name_of(function)}.{i}", v, free) for i, v in enumerate(shared))

    def _down(self, name: str, value: Any, free: bool) -> Any:
        tensor = value.value if isinstance(value, Message) else value
        tensor = tensor.rows_GP if isinstance(tensor, Table) else tensor
        if free or not isinstance(tensor, Tensor):
            return value.value if isinstance(value, Message) else value
        for sent, received in self._received:
            if sent is tensor:
                return value if isinstance(value, Table) else received
        received = tensor
        if isinstance(value, Message):
            self.bits_down += value.bits * self.total
        elif isinstance(value, Table):
            self.bits_down += FLOAT * (tensor.numel() // len(tensor)) * len(self.ids_C)
        elif self.channel.downlink is not None and tensor.dim() == 1 and len(tensor) == self._P:
            received = self._compressed(name, tensor, self.channel.downlink)
        else:
            self.bits_down += FLOAT * tensor.numel() * len(self.ids_C)
        self._received.append((tensor, received))
        return value if isinstance(value, Table) else received

    @property
    def _P(self) -> int:
        return sum(s.numel() for s in self.channel.shapes)

    def _compressed(self, name: str, value_P: Tensor, compressor: Compressor) -> Tensor:
        """The copy v̂ that clients have of a value v follows it by compressed differences: v̂ <- v̂ + C(v - v̂).

        The first time all of v is sent. Every client hears every message, or its copy would fall behind.
        """
        copy_P = self._state.get(f"{name}.copy")
        if copy_P is None:
            self._state[f"{name}.copy"] = value_P
            self.bits_down += FLOAT * len(value_P) * self.total
            return value_P
        fetched: dict[str, Tensor] = {}

        def memory(inner: str, fill_P: Tensor) -> Tensor:
            at = f"{name}.{inner}"
            if at not in fetched:
                fetched[at] = self._state.get(at, fill_P).clone().unsqueeze(0)
            return fetched[at]

        key_1 = streams.key(self.channel.seed, self._round, name).reshape(1)
        sender = Sender(
            np.array([-1]), key_1, memory, list(self.channel.shapes), (self.total, self.channel.seed)
        )
        sent_1P, bits = compressor.apply((value_P - copy_P).unsqueeze(0), sender)
        assert bits is not None
        self._state |= {at: rows[0] for at, rows in fetched.items()}
        self._state[f"{name}.copy"] = copy_P + sent_1P[0]
        self.bits_down += int(bits) * self.total
        return self._state[f"{name}.copy"]

    # ---- up --------------------------------------------------------------------------------------------------

    def up(
        self,
        function: Callable[..., Any],
        shared: tuple[Any, ...],
        last: Compressor | None,
        watched: Callable[[np.ndarray, bool], tuple[Tensor, ...]],
    ) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The client function with what becomes of its rows, and the values to call it with.

        Args:
            function: the rule's client function.
            shared: its shared values.
            last: a compressor of the rule's own, after the experiment's transforms.
            watched: (weight_C, squares) -> weighted means of the function's parts, and of their squares.
        """
        transforms = self.channel.uplink + (() if last is None else (last,))
        if not transforms:
            return function, shared
        check_order(transforms)
        names, values = [], []
        for i, transform in enumerate(transforms):
            told = transform.told(self._desks[i]) if i < len(self._desks) else {}
            for value in told.values():
                self.bits_down += FLOAT * value.numel() * len(self.ids_C)
            told = told | self._watched(transform, watched)
            names.append(tuple(told))
            values += told.values()
        return Sending(function, transforms, len(shared), tuple(names)), (*shared, *values)

    def _watched(
        self, transform: Transform, watched: Callable[[np.ndarray, bool], tuple[Tensor, ...]]
    ) -> dict[str, Tensor]:
        """What a transform must know of the honest clients' rows, part by part; zeros where none of them is honest.

        And "count": how many clients of the cohort are honest, and how many there are.
        """
        if not transform.watches:
            return {}
        hostile = hostile_ids(transform.hostile, self.total, self.channel.seed)  # type: ignore[attr-defined]
        honest_C = ~np.isin(self.ids_C, hostile)
        if honest_C.all():
            return {}  # and nobody to use it
        found = {"count": torch.tensor([int(honest_C.sum()), len(honest_C)])}
        if {"mean", "std"} & set(transform.watches):
            squares = "std" in transform.watches
            parts = watched(honest_C / max(1, honest_C.sum()), squares)
            half = len(parts) // 2 if squares else len(parts)
            for p, mean in enumerate(parts[:half]):
                found[f"{p}.mean"] = mean
                if squares:
                    found[f"{p}.std"] = (parts[half + p] - mean.square()).clamp_(min=0).sqrt_()
        if "row" in transform.watches:
            first = np.where(honest_C, self.ids_C, np.iinfo(np.int64).max).argmin()
            parts = watched((np.arange(len(honest_C)) == first) & honest_C, False)
            found |= {f"{p}.row": row for p, row in enumerate(parts)}
        return found

    def sent(self, width: int, keeps: bool) -> None:
        """Each client sent so many numbers; ``keeps``: clients keep rows from round to round."""
        self._rows += width // self._P if self._P else 0
        self._keeps |= keeps

    def received(self, parts: tuple[Tensor, ...], share: float, equal: bool = False) -> tuple[Tensor, ...]:
        """Reduced rows as the server uses them; ``equal``: all clients weigh alike, whoever is in the cohort."""
        self._equal &= equal
        for transform, desk in zip(self.channel.uplink, self._desks, strict=True):
            covered = lambda p: p.dim() == 1 and len(p) == self._P
            parts = tuple(transform.received(p, share, desk) if covered(p) else p for p in parts)
        return parts

    def settle(self) -> None:
        """The end of the round, at the server."""
        for transform, desk in zip(self.channel.uplink, self._desks, strict=True):
            transform.settle(replace(desk, rows=self._rows, equal=self._equal, keeps=self._keeps))


@dataclass(frozen=True)
class Watched:
    """A client function's rows as whoever watches the honest clients sees them.

    Args:
        function: the client function.
        squares: their squares too, after all parts.
    """

    function: Callable[..., Any]
    squares: bool

    def __call__(self, cohort: Cohort, *shared: Any) -> tuple[Tensor, ...]:
        """The parts, and their squares."""
        result = self.function(cohort, *shared)
        parts = result if isinstance(result, tuple) else (result,)
        return (*parts, *(p.square() for p in parts)) if self.squares else tuple(parts)
