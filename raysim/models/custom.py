"""Any network of your own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from torch import nn

from raysim.core.interfaces import Dataset, Model
from raysim.core.plugin import ConfigError, Opaque, shown


@dataclass(frozen=True)
class Custom(Model):
    """Any ``nn.Module``: a function or class that makes it, called without arguments.

    Paper: none; it is whatever you bring.

    Args:
        factory: makes a new network whose output fits the data's loss; a text file cannot hold it.
    """

    factory: Annotated[Callable[[], nn.Module], Opaque]

    def check(self) -> None:
        """A network is callable too, but it is not what makes one."""
        if isinstance(self.factory, nn.Module):
            name = type(self.factory).__name__
            raise ConfigError(
                f"Custom.factory must be a function that makes a network, got the network {name} itself. "
                f"Write Custom(lambda: {name}(...))."
            )

    def build(self, data: Dataset) -> nn.Module:
        """What the factory returns."""
        net = self.factory()
        if not isinstance(net, nn.Module):
            raise ConfigError(
                f"Custom.factory must return an nn.Module, got {shown(net)}. "
                "End the function with 'return net'."
            )
        return net
