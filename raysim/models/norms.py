"""Group normalisation in place of batch normalisation, in networks that others defined."""

from __future__ import annotations

import math

from torch import nn

from raysim.core.plugin import ConfigError


def check_norm(model: str, norm: str, groups: int, channels: int) -> None:
    """Refuse norms other than "group", and groups that do not divide ``channels``.

    Raises:
        ConfigError: with what to write instead.
    """
    if norm == "batch":
        raise ConfigError(
            f"{model}.norm cannot be 'batch': running statistics are not well defined over many clients, and "
            "batch statistics would change with padding. Write norm='group'."
        )
    if norm != "group":
        raise ConfigError(f"{model}.norm must be 'group', got {norm!r}.")
    if channels % groups:
        raise ConfigError(
            f"{model}.groups must divide {channels}, got {groups}. Write groups={math.gcd(groups, channels)}."
        )


def group_normalised(net: nn.Module, groups: int) -> nn.Module:
    """Replace every nn.BatchNorm2d by nn.GroupNorm, and in-place ReLUs by ordinary ones; returns ``net``."""
    for parent in list(net.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, nn.BatchNorm2d):
                setattr(parent, name, nn.GroupNorm(groups, layer.num_features))
            elif isinstance(layer, nn.ReLU):
                setattr(parent, name, nn.ReLU())
    return net


def stem(channels: int, outputs: int) -> nn.Conv2d:
    """The first convolution for small images, 3 x 3 with stride 1, initialised as in torchvision's ResNet."""
    layer = nn.Conv2d(channels, outputs, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer
