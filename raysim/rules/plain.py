"""What rules ask of local training that is a single plain gradient step."""

from __future__ import annotations

import torch

from raysim.core.interfaces import Optimizer
from raysim.core.local import Local
from raysim.core.plugin import ConfigError


def one_gradient(rule: str, local: Local) -> None:
    """Refuse local training that takes more or less than one step a round, or keeps state between steps."""
    if local.steps != 1:
        got = f"steps={local.steps}" if local.epochs is None else f"epochs={local.epochs}"
        raise ConfigError(
            f"{rule} takes one gradient a round, but Local has {got}. Write steps=1, with batch_size=None for the "
            "gradient of all of a client's data."
        )
    if local.optimizer.init(torch.zeros(1, 1)):
        raise ConfigError(
            f"{rule} takes plain gradient steps, but {local.optimizer!r} keeps state (momentum, say). Use SGD(lr=...) "
            "without momentum."
        )


def is_plain(optimizer: Optimizer) -> bool:
    """Whether its step is x - lr g and nothing more: tried out, so that it holds for optimisers unheard of."""
    if type(optimizer).step is not Optimizer.step or optimizer.init(torch.zeros(1, 1)):
        return False
    x_12 = torch.tensor([[3.0, 1.0]])
    optimizer.update(x_12, torch.tensor([[2.0, 0.0]]), {}, 0.5)
    return x_12.tolist() == [[2.0, 1.0]]
