"""What a probe of scaling is: the block ``regimes`` of an experiment's YAML."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from raysim import spec
from raysim.core.plugin import ConfigError, Count, Plugin, shown
from raysim.optimizers.mass import MaSS
from raysim.simulation import Simulation
from tuning.regimes.stepsize import Grid

_NO_TARGETS = ("round", "train_loss", "client_updates", "bits_up", "bits_down", "seconds")


@dataclass(frozen=True)
class Block(Plugin):
    """The block ``regimes``.

    Args:
        along: what grows: "batch_size", "clients" or "local_steps".
        values: its values, rising; batches no larger than the smallest client's share of the data.
        target: value of the metric to be reached.
        metric: "loss" or "accuracy" on the test set, or what a probe measures; accuracies rise to the target, all else
            falls to it.
        steps: step sizes to try.
        seeds: runs of each step size, with seeds that count up from the experiment's.
        max_rounds: rounds at most.
        examples_per_round: with one client, local steps of a round are as many as go through so many examples, at least
            one, so that rounds measure progress alike at every batch size; None leaves them as they are.
        momentum: MaSS's coefficients: "theory" has those that are best for each batch size on least squares, "fixed"
            the experiment's own; None is "theory" where the experiment is least squares.
        sizes: critical sizes to fit; None is two for MaSS along batch sizes and one for all else.
        noise: measure the gradient noise scale along the best run of the smallest value; not along
            local steps.
        level: confidence of the intervals.
        variants: experiments to compare, as changes to this one.
    """

    values: tuple[Count, ...]
    target: float
    along: Literal["batch_size", "clients", "local_steps"] = "batch_size"
    metric: str = "loss"
    steps: Grid = field(default_factory=Grid)
    seeds: Count = 3
    max_rounds: Count = 1000
    examples_per_round: Count | None = None
    momentum: Literal["theory", "fixed"] | None = None
    sizes: Literal[1, 2] | None = None
    noise: bool = True
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    variants: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Values that rise; variants that are mappings."""
        if len(self.values) < 2 or any(a >= b for a, b in zip(self.values, self.values[1:], strict=False)):
            raise ConfigError(f"values must rise, and be two at least, got {list(self.values)}.")
        if self.metric in _NO_TARGETS:
            raise ConfigError(
                f"{self.metric} is no target: it is counted, or measured on single batches. Use loss or accuracy, "
                "which are of the test set, or what a probe measures."
            )
        if self.examples_per_round and self.along != "batch_size":
            raise ConfigError("examples_per_round belongs to along: batch_size. Leave it out.")
        for label, changes in self.variants.items():
            if not isinstance(changes, dict):
                raise ConfigError(f"Variant {label!r} must be a mapping of changes, got {shown(changes)}.")


def read(tree: dict[str, Any]) -> Block:
    """The block from its fields.

    Raises:
        ConfigError: naming the field, what was got and what is allowed.
    """
    tree = dict(tree)
    changes, steps = tree.get("variants"), tree.get("steps")
    if isinstance(changes, dict):
        tree["variants"] = {str(label): {} if c is None else c for label, c in changes.items()}
    if "steps" in tree and not isinstance(steps, (dict, Grid)):
        raise ConfigError(
            f"regimes.steps are step sizes around a guess, such as {{log_grid: [0.25, 4, 7]}}, got {shown(steps)}."
        )
    built = spec.build(Block, tree, "regimes", named=False)
    assert isinstance(built, Block)
    return built


def require(block: Block, simulation: Simulation) -> None:
    """Refuse an experiment that cannot be probed so."""
    local, clients = simulation.local, getattr(simulation.partition, "clients", None)
    if not isinstance(local.optimizer.lr, (int, float)):
        raise ConfigError(
            "The best step size is searched for, so it cannot be a schedule. Write local.optimizer.lr as a number."
        )
    if local.steps is None:
        raise ConfigError(
            "Iterations are counted in local steps: write local.steps in place of local.epochs."
        )
    if block.along == "clients" and not isinstance(clients, int):
        raise ConfigError(
            f"The partition {type(simulation.partition).__name__} has no number of clients to change. Use one that "
            "has, such as IID(clients=1), or probe along batch_size."
        )
    if block.examples_per_round and clients != 1:
        raise ConfigError(
            f"examples_per_round changes the local steps with the batch size, which with {clients} clients is another "
            "method. Use IID(clients=1), or write local.steps alone."
        )
    if isinstance(local.optimizer, MaSS) and block.along != "local_steps" and not local.keep_state:
        raise ConfigError(
            "MaSS begins anew in every round, so that with few local steps it is SGD. Write local.keep_state: true."
        )
    for value in block.values if block.along == "clients" else ():
        with_clients(simulation, value)  # refuses a cohort that is larger


def with_clients(simulation: Simulation, clients: int) -> Simulation:
    """The experiment with so many clients."""
    partition = dataclasses.replace(simulation.partition, clients=clients)  # type: ignore[type-var]
    return simulation.replaced(partition=partition)


def require_examples(block: Block, simulation: Simulation) -> np.ndarray:
    """The examples of each client; refuses batches that one of them is too small for, whose runs would be the same."""
    batch = simulation.local.batch_size
    if block.along == "batch_size":
        batch = block.values[-1]
    if block.along == "clients":
        simulation = with_clients(simulation, block.values[-1])
    sizes_N = simulation.load()[1].sizes_N
    if block.along != "local_steps" and batch is not None and batch > sizes_N.min():
        raise ConfigError(
            f"A batch of {batch} examples is more than the smallest of {len(sizes_N)} clients has, {sizes_N.min()}. "
            f"Name smaller values of {block.along}, take more data, or a partition into more equal shares."
        )
    return sizes_N
