"""Error feedback: what a compressor left out is sent later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from raysim.core.code import Code
from raysim.core.sending import Sender
from raysim.core.transforms import Compressor, contraction


@dataclass(frozen=True)
class Feedback(Compressor):
    """Error feedback around any compressor: every client adds to a row what earlier messages left out.

    v_i = m_i + x_i;  sends C(v_i);  m_i ← v_i - C(v_i), with m_i = 0 at first. Nothing is lost: all that was sent and
    the memory add up to all that was to be sent. x_i is the update, local step sizes included, so the memory holds what
    earlier steps wanted to change (the order of Stich et al. and of EF-SGD). A client that is not in a cohort keeps its
    memory until it is.

    C should be a contraction, E||C(v) - v||² ≤ c ||v||² with c < 1, as ``error`` says of it: then the memory stays
    bounded. With an unbiased compressor of c ≥ 1 (coarse QSGD, Ternary, scaled RandomK) it may grow without bound; such
    a one needs no feedback, or is to be scaled down (``RandomK(scaled=False)``).

    Paper: Stich, Cordonnier, Jaggi, Sparsified SGD with Memory, 2018, https://arxiv.org/abs/1809.07599; Karimireddy,
    Rebjock, Stich, Jaggi, Error Feedback Fixes SignSGD and other Gradient Compression Schemes, 2019,
    https://arxiv.org/abs/1901.09847.

    Args:
        compressor: C, which should be a contraction.
    """

    remembers: ClassVar[bool] = True

    compressor: Compressor

    def cautions(self, shapes: list[torch.Size]) -> list[str]:
        """Where C is no contraction."""
        return contraction("Feedback", self.compressor, shapes) + self.compressor.cautions(shapes)

    def encode(self, rows_CP: Tensor, sender: Sender) -> Code:
        """The compressor's message about memory and row together."""
        inner = sender.within("inner")
        memory_CP = self._memory(rows_CP, sender).add_(rows_CP)
        code = self.compressor.encode(memory_CP, inner)
        memory_CP.sub_(self.compressor.decode(code, inner))
        return code

    def decode(self, code: Code, sender: Sender) -> Tensor:
        """What the compressor makes of it."""
        return self.compressor.decode(code, sender.within("inner"))

    def apply(self, rows_CP: Tensor, sender: Sender) -> tuple[Tensor, Tensor | float | None]:
        """Encode and decode in one go: what is left out stays in the memory, what is sent is written over the rows."""
        memory_CP = self._memory(rows_CP, sender).add_(rows_CP)
        return self.compressor.split(memory_CP, rows_CP, sender.within("inner"))

    def _memory(self, rows_CP: Tensor, sender: Sender) -> Tensor:
        return sender.memory("memory", torch.zeros_like(rows_CP[0]))
