"""Bucketing: means of a few rows each, for an aggregator to work on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raysim.core import streams
from raysim.core.interfaces import Aggregator
from raysim.core.plugin import ConfigError, Count


@dataclass(frozen=True)
class Bucketing(Aggregator):
    """Bucketing: rows are dealt at random to buckets of s, each bucket's mean is a row for the aggregator inside.

    There are ⌈n/s⌉ buckets; the last one holds what is left and is averaged over its own number. Means of unlike
    clients differ less than the clients, which helps aggregators that would follow some of them only; but a hostile row
    spoils its bucket, so that f hostile of n rows are f of ⌈n/s⌉: an aggregator that is told a share needs s times the
    clients' share. Rows are dealt anew in every round.

    Paper: Karimireddy, He, Jaggi, Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing, 2022,
    https://arxiv.org/abs/2006.09365.

    Args:
        aggregator: what combines the buckets.
        size: s, rows in a bucket, fewer than there are; 1 only shuffles.
    """

    aggregator: Aggregator
    size: Count = 2

    @property
    def keeps(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As the aggregator inside."""
        return self.aggregator.keeps

    def fit(self, rows: int) -> None:
        """At least two buckets, and as many as the aggregator inside needs."""
        buckets = -(-rows // self.size)
        if buckets < 2:
            raise ConfigError(
                f"Bucketing.size={self.size} puts all {rows} rows into one bucket, which is their mean. Use a smaller "
                "size or more clients per round."
            )
        try:
            self.aggregator.fit(buckets)
        except ConfigError as error:
            raise ConfigError(
                f"Of {rows} rows Bucketing makes {buckets} buckets of {self.size}. {error}"
            ) from None

    def combine(self, rows_CP: Tensor, key: Tensor, before_P: Tensor) -> Tensor:
        """What the aggregator makes of the buckets' means."""
        order_C = streams.permutation(streams.key(key, "buckets"), len(rows_CP))
        bucket_C = torch.empty_like(order_C)
        bucket_C[order_C] = torch.arange(len(rows_CP)) // self.size
        size_B = bucket_C.bincount()
        mean_BP = rows_CP.new_zeros(len(size_B), rows_CP.shape[1]).index_add_(0, bucket_C, rows_CP)
        mean_BP /= size_B.unsqueeze(1)
        return self.aggregator.combine(mean_BP, streams.key(key, "inner"), before_P)
