"""Clipping."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from raysim.core import streams
from raysim.core.channel import Desk
from raysim.core.plugin import NonNegative, Positive
from raysim.core.sending import Sender
from raysim.core.transforms import Privacy


class Clipping(Privacy):
    """What shortens rows: x_i min(1, S / ||x_i||). A mechanism that adds noise to them asks it for S."""

    def limit(self, known: Mapping[str, Tensor]) -> float:
        """S: from the server's state, or from what clients were told."""
        raise NotImplementedError

    def shorten(self, rows_CP: Tensor, sender: Sender) -> Tensor:
        """Longer rows become as long as S, in place; returns how long each was, [C]."""
        limit = self.limit(sender.known)
        length_C = rows_CP.norm(dim=1)
        sender.report("clipped", (length_C > limit).float())
        factor_C = (limit / length_C.clamp(min=torch.finfo(rows_CP.dtype).tiny)).clamp_(max=1)
        rows_CP.mul_(factor_C.unsqueeze(1))
        return length_C

    def apply(self, rows_CP: Tensor, sender: Sender) -> tuple[Tensor, Tensor | float | None]:
        """Longer rows are shortened to S."""
        self.shorten(rows_CP, sender)
        return rows_CP, None


@dataclass(frozen=True)
class Clip(Clipping):
    """Clipping: x_i min(1, S / ||x_i||), so that no client's row is longer than S. By itself it protects nobody.

    The metric "clipped" is the share of clients whose row was longer.

    Paper: McMahan, Ramage, Talwar, Zhang, Learning Differentially Private Recurrent Language Models, 2018,
    https://arxiv.org/abs/1710.06963.

    Args:
        norm: S, the largest length of a row.
    """

    norm: Positive

    def limit(self, known: Mapping[str, Tensor]) -> float:
        """S."""
        return self.norm


@dataclass(frozen=True)
class AdaptiveClip(Clipping):
    """Clipping to a length that follows a quantile of the rows' lengths. By itself it protects nobody.

    x_i ← x_i min(1, S / ||x_i||);  b = (number of clients of the cohort with ||x_i|| <= S, + N(0, noise²)) / cohort;
    S ← S exp(-rate (b - quantile)) after the round, with S = initial at first.

    All clients count the same in b, whatever their weight in means. Where clients send several rows a round (SCAFFOLD),
    all are clipped to the same S, and b is about the last. The metric "clip_norm" is the S of the round, "clipped" the
    share of clients whose row was longer. What each client says of its own row, one bit, is not counted as sent; S is.

    Paper: Andrew, Thakkar, McMahan, Ramaswamy, Differentially Private Learning with Adaptive Clipping, 2021,
    https://arxiv.org/abs/1905.03871.

    Args:
        initial: S in the first round.
        quantile: the share of rows that are to be left as they are, above 0 and below 1.
        rate: how fast S follows: a round changes it by a factor of about exp(rate) at most.
        noise: standard deviation of the noise on the number of clients, in clients. 0 tells that number exactly.
    """

    initial: Positive
    quantile: Annotated[float, Field(gt=0, lt=1)] = 0.5
    rate: Positive = 0.2
    noise: NonNegative = 0.0

    def limit(self, known: Mapping[str, Tensor]) -> float:
        """S, a float32: every client downloads 32 bits."""
        return float(known["norm"] if "norm" in known else torch.tensor(self.initial))

    def told(self, desk: Desk) -> dict[str, Tensor]:
        """S."""
        return {"norm": torch.tensor([self.limit(desk.state)])}

    def settle(self, desk: Desk) -> None:
        """S for the next round."""
        if "clipped" not in desk.reports:  # nobody sent anything
            return
        limit = self.limit(desk.state)
        desk.note("clip_norm", limit)
        short = desk.number - float(desk.reports["clipped"].sum())
        noise = float(streams.normal(streams.key(desk.key, "quantile"))) if self.noise else 0.0
        b = (short + self.noise * noise) / desk.number
        desk.state["norm"] = torch.tensor([limit * math.exp(-self.rate * (b - self.quantile))])
