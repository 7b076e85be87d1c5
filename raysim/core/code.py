"""What a compressed message is made of: numbers of so many bits each, counted, packed into bytes and read back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

FLOAT = 32


@dataclass(frozen=True)
class Field:
    """Numbers of one kind in every client's message.

    Args:
        values: [C, n]: float32 numbers for ``bits=32``, else integers (or booleans) in [0, 2^bits).
        bits: that each number takes, 1 to 32.
    """

    values: Tensor
    bits: int = FLOAT

    def __post_init__(self) -> None:
        """Only what ``pack`` can write without loss: float32 in 32 bits, integers in 1 to 32."""
        dtype = self.values.dtype
        allowed = (FLOAT, FLOAT) if self.floats else (1, FLOAT)
        if (dtype.is_floating_point and not self.floats) or not allowed[0] <= self.bits <= allowed[1]:
            raise ValueError(
                f"A field holds float32 numbers in 32 bits, or integers or booleans in 1 to 32, got {dtype} in "
                f"{self.bits}. Convert the numbers first."
            )

    @property
    def floats(self) -> bool:
        """Whether the numbers are floats, written as IEEE 754 has them."""
        return self.values.dtype == torch.float32


Code = dict[str, Field]
"""A block's messages: named fields. Their lengths follow from the compressor and the model, so nothing else is sent."""


def bits_of(code: Code) -> int:
    """Bits of one client's message; all clients of a block take the same."""
    return sum(f.bits * f.values.shape[1] for f in code.values())


def pack(code: Code, c: int) -> bytes:
    """Client c's message as it would go over a wire: field after field, most significant bits first, no gaps.

    Raises:
        ValueError: an integer does not fit into its bits.
    """
    streams = [_to_bits(name, f, c) for name, f in code.items()]
    return np.packbits(np.concatenate([np.empty(0, np.uint8), *streams])).tobytes()


def unpack(message: bytes, like: Code) -> Code:
    """One client's message read back.

    Args:
        message: what ``pack`` made.
        like: a code with the same fields, from which to know their kinds and lengths.
    """
    stream = np.unpackbits(np.frombuffer(message, np.uint8))
    code, at = {}, 0
    for name, field in like.items():
        n = field.values.shape[1]
        piece = stream[at : at + n * field.bits].reshape(n, field.bits)
        code[name] = Field(_from_bits(piece, field), field.bits)
        at += n * field.bits
    return code


def _to_bits(name: str, field: Field, c: int) -> np.ndarray:
    values = field.values[c].detach().cpu().contiguous().numpy()
    numbers = values.view(np.uint32) if field.floats else values
    if numbers.size and (numbers.min() < 0 or int(numbers.max()) >> field.bits):
        raise ValueError(
            f"Numbers of field {name!r} must be in [0, 2^{field.bits}), got {numbers.min()} to {numbers.max()}. "
            "Give the field more bits."
        )
    shifts = np.arange(field.bits - 1, -1, -1, dtype=np.uint64)
    return ((numbers.astype(np.uint64)[:, None] >> shifts) & np.uint64(1)).astype(np.uint8).reshape(-1)


def _from_bits(piece: np.ndarray, field: Field) -> Tensor:
    weights = np.uint64(1) << np.arange(field.bits - 1, -1, -1, dtype=np.uint64)
    numbers = (piece.astype(np.uint64) * weights).sum(1, dtype=np.uint64)
    if field.floats:
        return torch.from_numpy(numbers.astype(np.uint32).view(np.float32)).unsqueeze(0)
    return torch.from_numpy(numbers.astype(np.int64)).to(field.values.dtype).unsqueeze(0)
