"""A partition by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch

from raysim.core.interfaces import Dataset, Partition
from raysim.core.plugin import ConfigError, Opaque


@dataclass(frozen=True, eq=False)
class Explicit(Partition):
    """Index vectors of your own, one per client: no example twice, no client empty; examples may be left out.

    Args:
        indices: a list of integer arrays (numpy, torch or lists), positions in the training set.

    Paper: none. You decide.
    """

    indices: Annotated[Any, Opaque]

    def check(self) -> None:
        """Refuse what is no list of index vectors."""
        object.__setattr__(self, "indices", tuple(_vector(i, v) for i, v in enumerate(_listed(self.indices))))
        if not self.indices:
            raise ConfigError("Explicit.indices is empty: give one index vector per client.")
        everything = np.concatenate(self.indices)
        seen, count = np.unique(everything, return_counts=True)
        if seen[0] < 0:
            raise ConfigError(f"Explicit.indices must be positions from 0 on, got {seen[0]}.")
        if count.max() > 1:
            twice = seen[count > 1]
            raise ConfigError(
                f"Explicit.indices must name no example twice, but {len(twice)} occur more than once, first "
                f"{twice[0]}."
            )

    def split(self, data: Dataset, seed: int) -> list[np.ndarray]:
        """The index vectors, each sorted."""
        last = max(int(vector[-1]) for vector in self.indices)
        if last >= len(data.y_train):
            raise ConfigError(
                f"Explicit.indices names example {last}, but the data set has {len(data.y_train)} training "
                f"examples, 0 to {len(data.y_train) - 1}."
            )
        return list(self.indices)


def _listed(indices: Any) -> list[Any]:
    if isinstance(indices, (str, bytes)) or not hasattr(indices, "__iter__"):
        raise ConfigError(f"Explicit.indices must be a list of index vectors, got {type(indices).__name__}.")
    return list(indices)


def _vector(client: int, value: Any) -> np.ndarray:
    """One client's positions, sorted, int64."""
    vector = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    if vector.ndim != 1 or not vector.size or vector.dtype.kind not in "iu":
        raise ConfigError(
            f"Explicit.indices[{client}] must be a vector of at least one integer, got {vector.dtype} of "
            f"shape {vector.shape}. Leave clients without examples out."
        )
    return np.sort(vector.astype(np.int64))
