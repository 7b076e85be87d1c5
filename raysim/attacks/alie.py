"""A little is enough: a lie within the spread of the truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

from torch import Tensor

from raysim.core.plugin import NonNegative
from raysim.core.sending import Hostile
from raysim.core.transforms import Attack


@dataclass(frozen=True)
class LittleIsEnough(Attack):
    """A little is enough: all hostile clients send μ - z σ, so near the truth that many an honest row lies farther out.

    μ and σ are mean and standard deviation (divided by the number, not by one less) of what the honest clients of the
    cohort send, number by number, before any transform; all weigh the same.

    z=None takes the largest z that the paper expects to go unnoticed: of n clients in the cohort m are hostile and
    need s = ⌊n/2 + 1⌋ - m honest ones farther from μ than they are, so z = Φ⁻¹((n - m - s)/(n - m)), just below 0 for
    a single one among an even n. Where that has no finite value: a hostile majority needs nobody, and takes s = 1;
    with one honest client z = 0, and in a cohort without any they send zeros.

    σ comes from the mean of squares in float32: where honest rows agree to three digits or more it is but a rough
    number, far below what μ itself is.

    The attacker knows what it could not: a round in which a hostile client takes part trains every client twice.

    Paper: Baruch, Baruch, Goldberg, A Little Is Enough: Circumventing Defenses For Distributed Learning, 2019,
    https://arxiv.org/abs/1902.06156.

    Args:
        hostile: which clients: a fraction of all, drawn once for the experiment, or their numbers.
        z: standard deviations from the mean, at least 0; None to follow from the numbers of clients.
    """

    watches = ("mean", "std")

    hostile: Hostile
    z: NonNegative | None = None

    def lie(self, rows_HP: Tensor, key_H: Tensor, known: Mapping[str, Tensor]) -> Tensor:
        """The honest mean less so many standard deviations, the same for all."""
        z = unnoticed(*known["count"].tolist()) if self.z is None else self.z
        return (known["mean"] - z * known["std"]).expand_as(rows_HP)


def unnoticed(honest: int, clients: int) -> float:
    """The largest z expected to go unnoticed."""
    if honest <= 1:
        return 0.0
    supporters = max(1, clients // 2 + 1 - (clients - honest))
    return NormalDist().inv_cdf((honest - supporters) / honest)
