"""Rows on their way from a block's clients to the server: attacked, clipped, noised, compressed, in that order."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Union

import numpy as np
import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from raysim.core import streams
from raysim.core.plugin import ConfigError
from raysim.core.transforms import Compressor

if TYPE_CHECKING:
    from raysim.core.cohort import Cohort
    from raysim.core.transforms import Transform


def _no_count(value: Any) -> Any:
    if isinstance(value, int) and value:
        raise ValueError(f"a share of all clients such as 0.1, or a list of clients such as [{value}]")
    return value


Share = Annotated[float, BeforeValidator(_no_count), Field(ge=0, le=1)]
Hostile = Union[Share, tuple[Annotated[int, Field(ge=0)], ...]]  # noqa: UP007
"""Which clients are hostile: a fraction of all, drawn once for the experiment, or their numbers."""
BITS = "message_bits"  # bits that each client sent: counted, and shown as a metric


class Sender:
    """The clients of a block as they send one message, or the server as it sends one (a block of one).

    Args:
        ids_C: who sends.
        key_C: a random key for each, of this round and message; or what makes them, if they are ever asked for.
        memory: (name, fill_P) -> rows [C, len(fill_P)] that senders keep from round to round, written in place.
        shapes: of the model's parameters, which lie in a row one after the other.
        population: number of clients in the experiment, and its seed.
        known: what senders were told: see ``Transform.told`` and ``Transform.watches``.
        report: (name, value_C) -> None, for this round's metrics.
    """

    def __init__(
        self,
        ids_C: np.ndarray,
        key_C: Tensor | Callable[[], Tensor],
        memory: Callable[[str, Tensor], Tensor],
        shapes: list[torch.Size],
        population: tuple[int, int] = (1, 0),
        known: Mapping[str, Tensor] | None = None,
        report: Callable[[str, Tensor], None] = lambda name, value_C: None,
    ) -> None:
        self.ids_C, self.shapes, self.population, self._key = ids_C, shapes, population, key_C
        self.known = known or {}
        self._memory, self.report = memory, report

    def __len__(self) -> int:
        return len(self.ids_C)

    @functools.cached_property
    def key_C(self) -> Tensor:
        """The random keys: a few dozen tiny operations, which most compressors can do without."""
        return self._key() if callable(self._key) else self._key

    def key(self, purpose: str) -> Tensor:
        """A random key for each sender, [C], for one purpose of this message."""
        return streams.key(self.key_C, purpose)

    def memory(self, name: str, fill_P: Tensor) -> Tensor:
        """Rows [C, len(fill_P)] kept from this message to the next of its kind, ``fill_P`` at first."""
        return self._memory(name, fill_P)

    def within(self, name: str) -> Sender:
        """The same senders for a part of their work, with keys and memory of its own."""
        memory = lambda inner, fill_P: self._memory(f"{name}.{inner}", fill_P)
        key = lambda: self.key(name)
        return Sender(self.ids_C, key, memory, self.shapes, self.population, self.known, self.report)

    def hostile(self, hostile: float | tuple[int, ...]) -> Tensor:
        """Which of the senders are hostile, [C] bool."""
        return torch.from_numpy(np.isin(self.ids_C, hostile_ids(hostile, *self.population)))

    @classmethod
    def of(cls, cohort: Cohort, name: str, known: Mapping[str, Tensor] | None = None) -> Sender:
        """A cohort's clients as senders of the message ``name``."""
        memory = lambda inner, fill_P: cohort.state.rows(f"{name}.{inner}", fill_P)
        population = (cohort.total, cohort.seed)
        key = lambda: cohort.key(name)
        return cls(cohort.ids_C, key, memory, cohort.shapes, population, known, cohort.report)


@dataclass(frozen=True)
class Sending:
    """A client function whose rows are sent: every part as long as the model goes through the transforms.

    Args:
        function: the client function.
        transforms: what becomes of its rows, in this order.
        shared: values that are the function's own; those after them are what the transforms were told.
        names: for each transform, the names of what it was told.
    """

    function: Callable[..., Any]
    transforms: tuple[Transform, ...]
    shared: int
    names: tuple[tuple[str, ...], ...]

    def __call__(self, cohort: Cohort, *values: Any) -> Any:
        """The rows as the server receives them; reports the bits that each client sent."""
        result = self.function(cohort, *values[: self.shared])
        parts = result if isinstance(result, tuple) else (result,)
        known = self._known(values[self.shared :])
        bits_C = torch.zeros(len(cohort), dtype=torch.float64, device=cohort.device)
        sent: list[Tensor] = []
        for part in parts:
            sent.append(cohort.unshared(part, (*values, *sent)))
        for p, part in enumerate(sent):
            taken: Tensor | float = 32.0 * part[0].numel()
            if part.dim() == 2 and part.shape[1] == cohort.P:
                sent[p], taken = self._sent(cohort, p, part, known)
            else:
                self._refuse(part)
            bits_C += taken
        cohort.report(BITS, bits_C)
        return tuple(sent) if isinstance(result, tuple) else sent[0]

    def _known(self, told: tuple[Any, ...]) -> list[dict[str, Tensor]]:
        left = iter(told)
        return [{name: next(left) for name in names} for names in self.names]

    def _sent(
        self, cohort: Cohort, p: int, rows_CP: Tensor, known: list[dict[str, Tensor]]
    ) -> tuple[Tensor, Tensor | float]:
        bits: Tensor | float = 32.0 * rows_CP.shape[1]
        message = f"uplink.{name_of(self.function)}.{p}"
        for i, transform in enumerate(self.transforms):
            mine = {name.removeprefix(f"{p}."): v for name, v in known[i].items()}
            sender = Sender.of(cohort, f"{message}.{i}", mine)
            rows_CP, taken = transform.apply(rows_CP, sender)
            bits = bits if taken is None else taken
        return rows_CP, bits

    def _refuse(self, part: Tensor) -> None:
        for transform in self.transforms:
            if transform.covers:
                raise ConfigError(
                    f"{type(transform).__name__} protects rows as long as the model, but clients also send "
                    f"{tuple(part.shape[1:])} numbers in {name_of(self.function)}, which would leave unprotected. Use "
                    "a rule that sends updates or gradients only, such as Averaging."
                )


def check_order(transforms: tuple[Transform, ...]) -> None:
    """Refuse what would change rows after a transform that has to be the last."""
    for transform, after in itertools.pairwise(transforms):
        if isinstance(transform, Compressor) and after.fills:
            raise ConfigError(
                f"In Simulation.uplink {type(after).__name__} comes after {type(transform).__name__}, and would "
                "change a message that is already packed. Put attacks first, then privacy, then compressors."
            )
        if transform.last:
            raise ConfigError(
                f"{type(transform).__name__} must be the last to change rows, but {type(after).__name__} comes after "
                "it: the server's noise is made for rows no longer than the clipping leaves them. Put it before, or "
                "let the clients add the noise (at='client')."
            )


def name_of(function: Callable[..., Any]) -> str:
    """What a client function's messages are called: they keep their memory under it."""
    return getattr(function, "__name__", type(function).__name__)


@functools.lru_cache(maxsize=8)
def hostile_ids(hostile: float | tuple[int, ...], clients: int, seed: int) -> np.ndarray:
    """Which clients are hostile, in increasing order: those named, or a fraction drawn once for the experiment."""
    if isinstance(hostile, tuple):
        return np.unique(np.array(hostile, np.int64))
    return streams.choice(streams.key(seed, "hostile"), clients, round(hostile * clients)).numpy()
