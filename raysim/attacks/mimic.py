"""Mimicry: one honest client, many times over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from raysim.core.sending import Hostile
from raysim.core.transforms import Attack


@dataclass(frozen=True)
class Mimic(Attack):
    """All hostile clients send what one honest client sends: the one of the cohort with the lowest number.

    No row is out of the ordinary, so no rule can single them out; but where clients' data differ, the mimicked one
    counts for too much. The paper picks the client along the direction in which honest rows differ most; this is its
    simplest form, any one. With all clients in every round it is the same one throughout. Its row is taken before any
    transform. In a cohort without honest clients there is nobody to mimic: they send zeros.

    The attacker knows what it could not: a round in which a hostile client takes part trains every client twice.

    Paper: Karimireddy, He, Jaggi, Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing, 2022,
    https://arxiv.org/abs/2006.09365.

    Args:
        hostile: which clients: a fraction of all, drawn once for the experiment, or their numbers.
    """

    watches = ("row",)

    hostile: Hostile

    def lie(self, rows_HP: Tensor, key_H: Tensor, known: Mapping[str, Tensor]) -> Tensor:
        """That client's row."""
        return known["row"].expand_as(rows_HP)
