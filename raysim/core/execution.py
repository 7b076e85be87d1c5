"""How local training is computed: the form and the block size, and how "auto" chooses them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from raysim.core.batches import Examples, whole
from raysim.core.cohorts import Shards
from raysim.core.interfaces import Dataset, as_tensor
from raysim.core.plugin import ConfigError, Count, Plugin
from raysim.core.task import Task


@dataclass(frozen=True)
class Execution(Plugin):
    """How local training is computed. It changes the speed, and numbers only within float tolerance.

    ``auto`` is a fixed function of device kind, network and sizes (so the same experiment always runs the same way):
    ``inplace`` for chains of linear layers on a CPU, ``loop`` for other networks with convolutions or recurrence on a
    CPU, ``stacked`` otherwise. ``fastest`` times the forms on the first block instead and records what it took.

    Paper: none.

    Args:
        form: "auto", "fastest", "loop", "stacked", "inplace" or "compiled".
        block: clients per block, the unit of training and of summation; None chooses by the size of the model.
    """

    form: Literal["auto", "fastest", "loop", "stacked", "inplace", "compiled"] = "auto"
    block: Count | None = None


# Bytes of parameters and optimiser state that a block should hold on a CPU, from `raysim bench --blocks`: smaller
# blocks pay for dispatch, larger ones leave the cache, the more so the more processes share it (on two busy cores a
# block of 25 MLPs with momentum ran at 0.6 of the speed of a block of 8).
CPU_BLOCK_BYTES = 13 << 18
GPU_BLOCK = 256
BLOCKS = 4  # at least so many for a cohort worth splitting, and a multiple of it: work for 1, 2 or 4 actors

SLOW_STACKED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.RNNBase)
"""Layers that run no faster (convolutions: grouped) or not at all (recurrent) under vmap on a CPU."""


def choose_block(cohort: int, row: int, device: str, steps: int = 2) -> int:
    """Clients per block for a cohort of that size.

    Args:
        cohort: clients per round.
        row: floats that a client's parameters and optimiser state take.
        device: "cpu" or "cuda".
        steps: local steps of the client that takes most. Rows of a single step are written once and read once, so
            that twice as many may be under way.
    """
    room = CPU_BLOCK_BYTES * (2 if steps == 1 else 1)
    target = GPU_BLOCK if device == "cuda" else max(1, min(256, room // (4 * row)))
    blocks = -(-cohort // target)
    if device != "cuda" and cohort >= 4 * BLOCKS:
        blocks = -(-max(blocks, BLOCKS) // BLOCKS) * BLOCKS
    return -(-cohort // blocks)


def choose_form(form: str, task: Task, examples: Examples, device: str) -> str:
    """The form to run in: "auto" resolved, an impossible one refused, a network that vmap refuses sent to the loop."""
    if form == "fastest":
        return form
    if form == "inplace" and task.chain is None:
        raise ConfigError(
            "Execution.form 'inplace' needs an nn.Sequential of Flatten, Linear and ReLU, Tanh or Sigmoid layers with "
            "a cross-entropy or squared loss. Use 'auto', 'stacked' or 'loop' for this model."
        )
    if form == "auto":
        if device == "cpu" and task.chain is not None:
            return "inplace"
        if device == "cpu" and any(isinstance(m, SLOW_STACKED) for m in task.module.modules()):
            return "loop"
        form = "stacked"
    if form in ("stacked", "compiled"):
        reason = refusal(task, examples)
        if reason is not None:
            warnings.warn(
                f"This network cannot train as a stack ({reason}): clients train in a loop.", stacklevel=2
            )
            return "loop"
    if form == "compiled" and device == "cpu" and not has_compiler():
        warnings.warn(
            "No C++ compiler was found, which torch.compile needs on a CPU: using 'stacked'.", stacklevel=2
        )
        return "stacked"
    return form


def refusal(task: Task, examples: Examples) -> str | None:
    """Why vmap refuses the network, tried on the first examples of two clients; None if it does not."""
    batch = whole(examples, np.arange(min(2, examples.shards.number)))
    few = min(2, batch.x_CB.shape[1])
    batch.x_CB, batch.y_CB, batch.weight_CB = batch.x_CB[:, :few], batch.y_CB[:, :few], None
    return task.vmap_refusal(batch)


def has_compiler() -> bool:
    """Whether torch finds a C++ compiler."""
    try:
        from torch._inductor.cpp_builder import get_cpp_compiler

        get_cpp_compiler()
    except Exception:  # torch raises its own kinds, which differ between versions
        return False
    return True


def examples_of(dataset: Dataset, shards: Shards, device: torch.device | str = "cpu") -> Examples:
    """The training set on a device."""
    return Examples(
        as_tensor(dataset.x_train, device), as_tensor(dataset.y_train, device), shards, dataset.augment
    )
