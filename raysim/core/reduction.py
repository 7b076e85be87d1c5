"""Sums over a fixed binary tree, so that floating-point addition comes out the same however blocks are spread.

Leaves are a round's blocks. A node is added to its sibling wherever both are at hand; what remains travels. The
association of the additions is fixed by the number of blocks alone.
"""

from __future__ import annotations

from torch import Tensor

Node = tuple[int, int]
"""(level, index): the sum of blocks index * 2^level .. (index + 1) * 2^level - 1."""


class Tree:
    """Collects block sums (tuples of tensors) and merges siblings as they arrive, in any order."""

    def __init__(self, leaves: int) -> None:
        self.leaves = leaves
        self.nodes: dict[Node, tuple[Tensor, ...]] = {}

    def add(self, node: Node, value: tuple[Tensor, ...]) -> None:
        """Put a node in its place; ``value``'s tensors may be written to."""
        level, index = node
        while (1 << level) < self.leaves:
            sibling = (level, index ^ 1)
            if sibling in self.nodes:
                other = self.nodes.pop(sibling)
                left, right = (other, value) if index & 1 else (value, other)
                value = tuple(a.add_(b) for a, b in zip(left, right, strict=True))
            elif index & 1 or (index + 1) << level < self.leaves:
                break  # the sibling exists, elsewhere
            level, index = level + 1, index >> 1
        self.nodes[level, index] = value

    def total(self) -> tuple[Tensor, ...]:
        """The sum of all leaves, once they have all arrived."""
        (value,) = self.nodes.values()
        return value
