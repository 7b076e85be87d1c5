"""What a rule adds to its clients' local training: a term in the objective, or a pull after every step.

FedProx, SCAFFOLD, FedDyn, EASGD's and LSGD's objectives all add (s/2) ||y||² + <b, y> for some number s and row b, so
one type serves them all, and the in-place form can fold s into the factor it scales the parameters with anyway.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Term:
    """(scale/2) ||y||² + <linear, y>, added to every client's loss; its gradient is scale y + linear.

    Args:
        scale: a number, or a column [C, 1].
        linear: rows [C, P], one row [P] for all clients, or None for zero.
    """

    scale: float | Tensor = 0.0
    linear: Tensor | None = None

    def rows(self, a: int, b: int) -> Term:
        """The term of clients a..b-1."""
        cut = lambda v: v[a:b] if isinstance(v, Tensor) and v.dim() == 2 else v
        return Term(cut(self.scale), cut(self.linear))

    def __add__(self, other: Term) -> Term:
        """Both terms as one."""
        both = [t for t in (self.linear, other.linear) if t is not None]
        return Term(self.scale + other.scale, both[0] + both[1] if len(both) == 2 else (both or [None])[0])

    def value(self, y_CP: Tensor) -> Tensor:
        """The term's value [C]; for a fixed centre z of ``proximal`` it leaves out the constant (mu/2) ||z||²."""
        scale = self.scale.squeeze(1) if isinstance(self.scale, Tensor) else self.scale
        value_C = 0.5 * scale * y_CP.square().sum(1)
        return value_C if self.linear is None else value_C + (self.linear * y_CP).sum(1)

    def add_gradient(self, y_CP: Tensor, grad_CP: Tensor) -> None:
        """Add the term's gradient at ``y_CP`` to ``grad_CP``, in place."""
        if isinstance(self.scale, Tensor):
            grad_CP.addcmul_(y_CP, self.scale.expand_as(y_CP))
        elif self.scale:
            grad_CP.add_(y_CP, alpha=self.scale)
        if self.linear is not None:
            grad_CP.add_(self.linear)


def proximal(mu: float, centre: Tensor) -> Term:
    """(mu/2) ||y - centre||² up to a constant: FedProx, EASGD's and LSGD's objectives.

    Args:
        mu: strength, at least 0.
        centre: one row [P] for all clients, or rows [C, P].
    """
    return Term(mu, centre * -mu)


def correction(linear: Tensor) -> Term:
    """<linear, y>: a constant added to every gradient, as SCAFFOLD's control variates are."""
    return Term(0.0, linear)


@dataclass(frozen=True)
class Pull:
    """After every local step, y <- (1 - strength) y + strength towards.

    Args:
        strength: in [0, 1).
        towards: one row [P] for all clients, or rows [C, P].
    """

    strength: float
    towards: Tensor

    def rows(self, a: int, b: int) -> Pull:
        """The pull on clients a..b-1."""
        return Pull(self.strength, self.towards[a:b] if self.towards.dim() == 2 else self.towards)

    def apply(self, y_CP: Tensor) -> None:
        """Move the rows, in place."""
        torch.lerp(y_CP, self.towards.expand_as(y_CP), self.strength, out=y_CP)
