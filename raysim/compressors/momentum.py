"""Momentum correction: error feedback that remembers where the numbers it keeps back were heading."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from raysim.core.code import Code
from raysim.core.plugin import BelowOne
from raysim.core.sending import Sender
from raysim.core.transforms import Compressor, contraction


@dataclass(frozen=True)
class MomentumCorrection(Compressor):
    """Momentum correction around a sparsifier: what is kept back gathers momentum before it is sent.

    u_i ← m u_i + x_i;  v_i ← v_i + u_i;  sends C(v_i);  v_i ← v_i - C(v_i);  and where something was sent u_i ← 0
    (momentum factor masking), so that a late number does not go on in a direction that is out of date. Both are zero at
    first. It takes the place of momentum in the local training or in the server's step. With m = 0 it is ``Feedback``.
    In the paper x_i is the gradient of one step; here it is whatever clients send. The paper's clipping and its slow
    start with weak compression are not part of it.

    Without masking all that is sent adds up to 1 / (1 - m) times all x_i in the long run, with it to less: choose the
    step size as for momentum.

    Paper: Lin, Han, Mao, Wang, Dally, Deep Gradient Compression: Reducing the Communication Bandwidth for Distributed
    Training, 2018, https://arxiv.org/abs/1712.01887.

    Args:
        compressor: C, which should be a contraction (see ``Feedback``), and for masking send few numbers.
        momentum: m, at least 0 and below 1.
        masking: whether momentum is dropped where something was sent.
    """

    remembers: ClassVar[bool] = True

    compressor: Compressor
    momentum: BelowOne = 0.9
    masking: bool = True

    def cautions(self, shapes: list[torch.Size]) -> list[str]:
        """Where C is no contraction."""
        return contraction("MomentumCorrection", self.compressor, shapes) + self.compressor.cautions(shapes)

    def encode(self, rows_CP: Tensor, sender: Sender) -> Code:
        """The compressor's message about all that was kept back."""
        inner = sender.within("inner")
        u_CP, v_CP = self._gathered(rows_CP, sender)
        code = self.compressor.encode(v_CP, inner)
        sent_CP = self.compressor.decode(code, inner)
        v_CP.sub_(sent_CP)
        self._mask(u_CP, sent_CP)
        return code

    def decode(self, code: Code, sender: Sender) -> Tensor:
        """What the compressor makes of it."""
        return self.compressor.decode(code, sender.within("inner"))

    def apply(self, rows_CP: Tensor, sender: Sender) -> tuple[Tensor, Tensor | float | None]:
        """Encode and decode in one go."""
        u_CP, v_CP = self._gathered(rows_CP, sender)
        sent_CP, bits = self.compressor.split(v_CP, rows_CP, sender.within("inner"))
        self._mask(u_CP, sent_CP)
        return sent_CP, bits

    def _gathered(self, rows_CP: Tensor, sender: Sender) -> tuple[Tensor, Tensor]:
        """Both memories, u and v, with these rows in them."""
        zero_P = torch.zeros_like(rows_CP[0])
        u_CP = sender.memory("velocity", zero_P).mul_(self.momentum).add_(rows_CP)
        return u_CP, sender.memory("memory", zero_P).add_(u_CP)

    def _mask(self, u_CP: Tensor, sent_CP: Tensor) -> None:
        if self.masking:
            u_CP.addcmul_(
                u_CP, sent_CP.sign().square_(), value=-1
            )  # exactly zero; faster than a mask of booleans
