"""Partitions: which training examples belong to which client.

Every index vector is sorted; all randomness is a hash of the seed. A new partition is one new file with a
frozen dataclass and one line here.
"""

from raysim.data.partitions.dirichlet import Dirichlet
from raysim.data.partitions.explicit import Explicit
from raysim.data.partitions.groups import ByGroup
from raysim.data.partitions.iid import IID
from raysim.data.partitions.shards import LabelShards
from raysim.data.partitions.sizes import Sizes
from raysim.data.partitions.sorted_mix import SortedMix

__all__ = ["IID", "ByGroup", "Dirichlet", "Explicit", "LabelShards", "Sizes", "SortedMix"]
