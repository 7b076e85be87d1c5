"""The kinds of plug-in that stand between a client and the server: attacks, privacy, compressors.

Shape letters as in ``interfaces.py``; H hostile clients here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from raysim.core.code import Code, bits_of
from raysim.core.plugin import ConfigError, Plugin

if TYPE_CHECKING:
    from raysim.core.channel import Desk
    from raysim.core.cohorts import Shards
    from raysim.core.interfaces import Dataset, Rule
    from raysim.core.sending import Sender


class Transform(Plugin):
    """What becomes of the rows that leave a client, on their way to the server: base of the next three kinds."""

    covers: ClassVar[bool] = False
    """Whether it is worthless unless everything that clients send goes through it."""
    watches: ClassVar[tuple[str, ...]] = ()
    """What it must know of the rows that honest clients are about to send: "mean", "std", "row" (of the first).

    It appears in ``Sender.known``, with "count", the numbers of honest and of all clients in the cohort.
    """

    @property
    def fills(self) -> bool:
        """Whether its rows are dense, whatever they were: they would not fit into a message already packed."""
        return False

    @property
    def last(self) -> bool:
        """Whether rows must reach the server just as it leaves them, so that no other transform may follow."""
        return False

    on_data: ClassVar[bool] = False
    """Whether it changes what clients learn from and nothing that they send."""

    def fit(self, rule: Rule, clients: int) -> None:
        """Raise ConfigError where it cannot be used with this rule or so many clients."""

    def poison(self, dataset: Dataset, shards: Shards, seed: int) -> Dataset:
        """The data that clients hold, where it changes those."""
        return dataset

    def told(self, desk: Desk) -> dict[str, Tensor]:
        """What the server tells every client at the start of an exchange; it appears in ``Sender.known``."""
        return {}

    def apply(self, rows_CP: Tensor, sender: Sender) -> tuple[Tensor, Tensor | float | None]:
        """What the receiver makes of each row, [C, P], and the bits that each client sends.

        Args:
            rows_CP: the rows, which may be overwritten.
            sender: who sends: keys, memory, shapes of the layers.

        Returns:
            The rows, and the bits: [C] float64, a number for all, or None to leave the bits as they were.
        """
        raise NotImplementedError

    def received(self, row_P: Tensor, share: float, desk: Desk) -> Tensor:
        """What the server makes of a mean or sum of rows in which no client's weight is above ``share``."""
        return row_P

    def settle(self, desk: Desk) -> None:
        """What the server does after a round: renew ``desk.state``, note numbers for the metrics."""


class Compressor(Transform):
    """What a client sends in place of a row: a code of numbered bits, from which the receiver makes a row again."""

    unbiased: ClassVar[bool] = False
    """Whether the mean of what is received, over the compressor's randomness, is what was sent."""

    remembers: ClassVar[bool] = False
    """Whether it adds to a row what earlier messages left out."""

    def cautions(self, shapes: list[torch.Size]) -> list[str]:
        """What a user should know before it is used with this model."""
        return []

    def encode(self, rows_CP: Tensor, sender: Sender) -> Code:
        """The clients' messages. Memory in ``sender`` may be used and renewed; the rows are left as they are."""
        raise NotImplementedError

    def decode(self, code: Code, sender: Sender) -> Tensor:
        """What the receiver makes of them, [C, P]: from the code, shapes and keys, and no memory of the sender."""
        raise NotImplementedError

    def apply(self, rows_CP: Tensor, sender: Sender) -> tuple[Tensor, Tensor | float | None]:
        """Encode and decode; the bits are those of the code."""
        code = self.encode(rows_CP, sender)
        return self.decode(code, sender), float(bits_of(code))

    def split(
        self, rows_CP: Tensor, spare_CP: Tensor, sender: Sender
    ) -> tuple[Tensor, Tensor | float | None]:
        """As ``apply``, but ``rows_CP`` becomes what the receiver did not get; ``spare_CP`` is memory to write to."""
        sent_CP, bits = self.apply(spare_CP.copy_(rows_CP), sender)
        rows_CP.sub_(sent_CP)
        return sent_CP, bits

    def error(self, shapes: list[torch.Size]) -> float | None:
        """The least known c with E||C(x) - x||² <= c ||x||² for all x of these shapes; None for no such promise."""
        return None


class Attack(Transform):
    """What hostile clients send, or learn from, in place of the truth.

    A field ``hostile`` says which clients: a fraction of all, drawn once for the experiment, or their numbers.
    """

    hostile: float | tuple[int, ...]

    def fit(self, rule: Rule, clients: int) -> None:
        """Hostile clients named by number must exist."""
        unknown = [i for i in self.hostile if i >= clients] if isinstance(self.hostile, tuple) else []
        if unknown:
            raise ConfigError(
                f"{type(self).__name__}.hostile names client {unknown[0]}, but the {clients} clients are numbered 0 to "
                f"{clients - 1}. Name clients among them, or give a fraction such as 0.1."
            )
        if isinstance(self.hostile, float) and 0 < self.hostile < 0.5 / clients:
            raise ConfigError(
                f"{type(self).__name__}.hostile is {self.hostile} of {clients} clients, which rounds to nobody. Use a "
                "larger share, more clients, or a list of clients."
            )

    @property
    def fills(self) -> bool:
        """A lie may be anything."""
        return not self.on_data

    def lie(self, rows_HP: Tensor, key_H: Tensor, known: Mapping[str, Tensor]) -> Tensor:
        """What hostile clients send, [H, P], in place of their rows."""
        return rows_HP

    def apply(self, rows_CP: Tensor, sender: Sender) -> tuple[Tensor, Tensor | float | None]:
        """Only hostile clients' rows change."""
        hostile_C = sender.hostile(self.hostile).to(rows_CP.device)
        if hostile_C.any():
            key_H = sender.key("attack")[hostile_C]
            rows_CP[hostile_C] = self.lie(rows_CP[hostile_C], key_H, sender.known)
        return rows_CP, None


class Privacy(Transform):
    """What keeps the server, or whoever sees its model, from learning about a single client."""


def contraction(outer: str, compressor: Compressor, shapes: list[torch.Size]) -> list[str]:
    """What to know of a compressor whose left-overs come back: they shrink only if it is a contraction."""
    error = compressor.error(shapes)
    name = type(compressor).__name__
    if error is not None and error <= 1:
        return []
    promise = (
        "makes no promise about its error"
        if error is None
        else f"may err by {error**0.5:.3g} times a row's length"
    )
    return [
        f"{name} {promise} with this model, and {outer} adds what is left out to what comes next, so the run may "
        "diverge. Safe are TopK, RandomK(scaled=False), Sign with a scale, Natural, and QSGD with many levels or small "
        "buckets."
    ]
