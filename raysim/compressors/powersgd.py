"""PowerSGD: matrices of low rank in place of gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field as Limits
from torch import Tensor

from raysim.core import streams
from raysim.core.code import Code, Field
from raysim.core.layout import padded
from raysim.core.plugin import Count
from raysim.core.sending import Sender
from raysim.core.transforms import Compressor

NOISE = 1e-5  # share of a direction's length below which what is new in it may be rounding


@dataclass(frozen=True)
class PowerSGD(Compressor):
    """PowerSGD: a matrix of low rank for every weight matrix M [n, m], by one step of power iteration a message.

    P = M Q, its columns made orthonormal;  Q ← Mᵀ P;  C(M) = P Qᵀ, the projection of M onto the span of P. Q is kept
    for the next message (warm start), so that it follows the leading singular vectors of what is sent from round to
    round; at first it is normal, the same for all clients. A parameter of more than two dimensions is a matrix of its
    first by all others. C(x) is never longer than x, nor further from it than zero is; it is biased and belongs inside
    ``Feedback``.

    In the paper all workers share one P and one Q, averaged before they are made orthonormal. Here every client
    compresses its own row, which any rule can reduce: for one client it is the same, for several the mean of matrices
    of rank r has a higher rank. Where M has a rank below r, the columns of P that it leaves over are sent as zeros, and
    those of Q start anew with the next message.

    A matrix takes 32 r (n + m) bits, and is sent in full, as vectors are, where that does not compress it by more than
    ``min_compression``.

    Paper: Vogels, Karimireddy, Jaggi, PowerSGD: Practical Low-Rank Gradient Compression for Distributed Optimization,
    2019, https://arxiv.org/abs/1905.13727.

    Args:
        rank: r, at least 1; the paper uses 1 to 4.
        min_compression: matrices are compressed if n m > min_compression r (n + m), at least 1; 2 is the default of the
            authors' library.
    """

    rank: Count = 1
    min_compression: Annotated[float, Limits(ge=1, allow_inf_nan=False)] = 2.0

    def encode(self, rows_CP: Tensor, sender: Sender) -> Code:
        """P and Q of every matrix, direction after direction, and what is sent in full."""
        fields: dict[str, list[Tensor]] = {"P": [], "Q": [], "vectors": []}
        kept, fresh = self._directions(rows_CP, sender)
        for part, shape in zip(_parts(rows_CP, sender.shapes), sender.shapes, strict=True):
            if not self._compresses(shape):
                fields["vectors"].append(part)
                continue
            matrix_Cnm, start_Crm = _padded(part.unflatten(1, _sides(shape)), rows=True), next(kept)
            right_Crm = _padded(_directed(start_Crm, next(fresh)))
            left_Crn = orthonormal(right_Crm @ matrix_Cnm.transpose(1, 2))
            start_Crm.copy_((left_Crn @ matrix_Cnm)[..., : start_Crm.shape[2]])
            fields["P"].append(left_Crn[..., : shape[0]].flatten(1))
            fields["Q"].append(start_Crm.flatten(1))
        nothing = rows_CP.new_empty(len(rows_CP), 0)
        return {name: Field(torch.cat([nothing, *parts], 1)) for name, parts in fields.items()}

    def decode(self, code: Code, sender: Sender) -> Tensor:
        """P Qᵀ in the place of every matrix."""
        sides = self._matrices(sender.shapes)
        left, right, vectors = (code[name].values for name in ("P", "Q", "vectors"))
        lefts = self._pieces(left, [n for n, _ in sides])
        rights = self._pieces(right, [m for _, m in sides])
        rows_CP = vectors.new_empty(len(vectors), sum(s.numel() for s in sender.shapes))
        sent = 0
        for part, shape in zip(_parts(rows_CP, sender.shapes), sender.shapes, strict=True):
            if not self._compresses(shape):
                part.copy_(vectors[:, sent : sent + shape.numel()])
                sent += shape.numel()
                continue
            n, m = _sides(shape)
            product_Cnm = _padded(next(lefts)).transpose(1, 2) @ _padded(next(rights))
            part.unflatten(1, (n, m)).copy_(product_Cnm[:, :n, :m])
        return rows_CP

    def error(self, shapes: list[torch.Size]) -> float:
        """1: a projection, but nothing says that Q, which comes from another matrix, meets anything in this one."""
        return 1.0

    def _compresses(self, shape: torch.Size) -> bool:
        """Whether a parameter is a matrix worth compressing."""
        if len(shape) < 2:
            return False
        n, m = _sides(shape)
        return n * m > self.min_compression * self.rank * (n + m)

    def _matrices(self, shapes: list[torch.Size]) -> list[tuple[int, int]]:
        """Rows and columns of the matrices that are compressed."""
        return [_sides(s) for s in shapes if self._compresses(s)]

    def _pieces(self, rows: Tensor, lengths: list[int]) -> Iterator[Tensor]:
        """Views [..., r, length] one after the other along the last axis."""
        at = 0
        for length in lengths:
            yield rows[..., at : at + self.rank * length].unflatten(-1, (self.rank, length))
            at += self.rank * length

    def _directions(self, rows_CP: Tensor, sender: Sender) -> tuple[Iterator[Tensor], Iterator[Tensor]]:
        """Q of every matrix as the clients keep it, to be renewed, [C, r, m], and as it is at first, [r, m]."""
        lengths = [m for _, m in self._matrices(sender.shapes)]
        if not lengths:
            return iter(()), iter(())
        seed = streams.key(sender.population[1], "powersgd", device=rows_CP.device)
        fresh = streams.normal(seed, self.rank * sum(lengths))
        return self._pieces(sender.memory("Q", fresh), lengths), self._pieces(fresh, lengths)


def orthonormal(rows_Crn: Tensor) -> Tensor:
    """Gram-Schmidt on the rows of every matrix, in place; a row that depends on those before it becomes zero.

    Each row is cleared of the ones before it twice, without which a row almost in their span would not be at right
    angles to them. Only sums over the last axis: the bits of a client's rows do not depend on who is beside it.
    """
    for j in range(rows_Crn.shape[1]):
        before_Cjn, row_Cn = rows_Crn[:, :j], rows_Crn[:, j]
        length_C1 = _length(row_Cn)
        for _ in range(2 if j else 0):
            share_Cj1 = (before_Cjn * row_Cn.unsqueeze(1)).sum(2, keepdim=True)
            row_Cn.sub_((share_Cj1 * before_Cjn).sum(1))
        left_C1 = _length(row_Cn)
        row_Cn.mul_(torch.where(left_C1 > NOISE * length_C1, 1 / left_C1, 0))
    return rows_Crn


def _directed(kept_Crm: Tensor, fresh_rm: Tensor) -> Tensor:
    """Q with columns of length 1, so that no square underflows: P spans the same. New columns where there are none."""
    begun_Crm = torch.where(_length(kept_Crm) > 0, kept_Crm, fresh_rm)
    return begun_Crm / _length(begun_Crm)


def _length(rows: Tensor) -> Tensor:
    """Euclidean length along the last axis, which is kept."""
    return rows.square().sum(-1, keepdim=True).sqrt()


def _sides(shape: torch.Size) -> tuple[int, int]:
    """A parameter as a matrix: its first dimension by all others."""
    return shape[0], shape[1:].numel()


def _parts(rows_CP: Tensor, shapes: list[torch.Size]) -> tuple[Tensor, ...]:
    """Every parameter's columns."""
    return rows_CP.split([s.numel() for s in shapes], 1)


def _padded(matrix_Cnm: Tensor, rows: bool = False) -> Tensor:
    """Zeros after every row, and below the last one, up to whole cache lines.

    Products of matrices that all begin at one have the same bits wherever in a block a client is, and in any block.
    """
    C, n, m = matrix_Cnm.shape
    padded_Cnm = matrix_Cnm.new_zeros(C, padded(n) if rows else n, padded(m))
    padded_Cnm[:, :n, :m] = matrix_Cnm
    return padded_Cnm
