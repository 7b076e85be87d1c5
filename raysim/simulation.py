"""Simulation: one experiment, checked when it is built."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field
from torch import nn

from raysim.core import streams
from raysim.core.cohorts import Shards
from raysim.core.execution import Execution
from raysim.core.interfaces import Data, Dataset, Model, Optimizer, Partition, Probe, Rule
from raysim.core.local import Local
from raysim.core.placement import Placement
from raysim.core.plugin import ConfigError, Count, CountOrZero, Plugin
from raysim.core.sending import check_order
from raysim.core.transforms import Attack, Compressor, Privacy
from raysim.rules import Averaging

if TYPE_CHECKING:
    from raysim.result import Result

Fraction = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class Simulation(Plugin):
    """One experiment: who has which data, how clients train, what they exchange, and where it runs.

    Paper: none.

    Args:
        data: the data set.
        partition: how its examples are dealt to clients.
        model: the network.
        local: local training.
        rule: the aggregation rule.
        uplink: what becomes of the rows that leave a client, in this order: attacks, privacy, compressors.
        downlink: how the server compresses what it sends; clients' copies follow by compressed differences.
        cohort: clients per round, as a number or a fraction, drawn without replacement; None for all.
        rounds: communication rounds.
        seed: of the partition, the initial model, cohorts and batches.
        evaluate_every: rounds between evaluations on the test set (the first and last round are always evaluated).
        checkpoint_every: rounds between checkpoints; 0 for one at the end only.
        probes: what else to measure on evaluated rounds.
        execution: how local training is computed.
        placement: where clients live.
        name: of the run's folder; the experiment file's name if empty.
    """

    data: Data
    partition: Partition
    model: Model
    local: Local
    rule: Rule = dataclasses.field(default_factory=Averaging)
    uplink: tuple[Attack | Privacy | Compressor, ...] = ()
    downlink: Compressor | None = None
    cohort: Count | Fraction | None = None
    rounds: Count = 100
    seed: CountOrZero = 0
    evaluate_every: Count = 1
    checkpoint_every: CountOrZero = 0
    probes: tuple[Probe, ...] = ()
    execution: Execution = dataclasses.field(default_factory=Execution)
    placement: Placement = dataclasses.field(default_factory=Placement)
    name: str = ""

    def check(self) -> None:
        """A cohort no larger than the clients, where the partition says how many there are."""
        clients = getattr(self.partition, "clients", None)
        if isinstance(clients, int):
            self._fit(clients)

    def _fit(self, clients: int) -> None:
        """Refuse a rule that cannot run with these clients."""
        size = self.cohort_size(clients)
        if self.rule.everyone and size < clients:
            raise ConfigError(
                f"The rule {type(self.rule).__name__} needs every client in every round, but Simulation.cohort is "
                f"{self.cohort} of {clients} clients. Leave cohort out, or choose a rule that samples clients."
            )
        self.rule.fit(clients, size, self.local)
        for name, value in vars(self.rule).items():
            if isinstance(value, Optimizer) and type(value).step is not Optimizer.step:
                raise ConfigError(
                    f"{type(self.rule).__name__}.{name} is {type(value).__name__}, which needs the loss on a batch, "
                    "but a server has gradients alone. Use it as Local.optimizer, and SGD, Adam or the like here."
                )
        self._fit_channel(clients)

    def _fit_channel(self, clients: int) -> None:
        """Refuse messages that the rule cannot send."""
        sent = [t for t in self.uplink if not t.on_data]
        if self.rule.own_models and (sent or self.downlink):
            raise ConfigError(
                f"In {type(self.rule).__name__} clients send whole models, to each other or to pull towards, while "
                f"Simulation.{'uplink' if sent else 'downlink'} is for updates and gradients. Leave it out, or "
                "use ChocoSGD for gossip with a compressor."
            )
        if self.rule.own_downlink and self.downlink:
            raise ConfigError(
                f"{type(self.rule).__name__} answers in bits of its own already, so there is nothing for "
                "Simulation.downlink to compress. Leave it out."
            )
        if self.downlink and self.downlink.remembers:
            raise ConfigError(
                "Simulation.downlink compresses the difference to the clients' copy, which already holds what earlier "
                f"messages left out; {type(self.downlink).__name__} would add it again. Write the compressor inside it "
                "alone."
            )
        if self.downlink and self.probes:
            raise ConfigError(
                "Simulation.probes replay a round from the server's model, but with Simulation.downlink clients start "
                "from their copy of it, so what probes would see never happened. Leave out one of them."
            )
        check_order(self.uplink)
        for transform in self.uplink:
            transform.fit(self.rule, clients)

    def cohort_size(self, clients: int) -> int:
        """Clients per round out of ``clients``."""
        if self.cohort is None:
            return clients
        if isinstance(self.cohort, float):
            return max(1, round(self.cohort * clients))
        if self.cohort > clients:
            raise ConfigError(
                f"Simulation.cohort is {self.cohort}, but there are only {clients} clients. Use at most {clients}, "
                "a fraction such as 0.1, or leave it out to let all clients take part."
            )
        return self.cohort

    def load(self) -> tuple[Dataset, Shards]:
        """The data with its training examples stored client after client, and each client's share."""
        dataset = self.data.load()
        indices = self.partition.split(dataset, self.seed)
        shards, order = Shards.of(indices)
        empty = np.flatnonzero(shards.sizes_N == 0)
        if len(empty):
            raise ConfigError(
                f"{len(empty)} of {shards.number} clients have no examples (client {empty[0]} first). Use fewer "
                "clients, more data or a partition that leaves nobody empty (a larger alpha, min_examples=1)."
            )
        self._fit(shards.number)
        if len(order) != len(dataset.x_train) or (np.diff(order) != 1).any():
            groups = None if dataset.groups is None else dataset.groups[order]
            x, y = dataset.x_train[order], dataset.y_train[order]
            dataset = dataclasses.replace(dataset, x_train=x, y_train=y, groups=groups)
        for transform in self.uplink:
            dataset = transform.poison(dataset, shards, self.seed)
        return dataset, shards

    def initial_model(self, dataset: Dataset | None = None) -> nn.Module:
        """The network as every run with this seed starts it."""
        with streams.torch_default(streams.key(self.seed, "model")):
            return self.model.build(self.data.load() if dataset is None else dataset)

    def run(self, folder: str | Path | None = "auto", *, progress: bool = False) -> Result:
        """Run the experiment.

        Args:
            folder: what to write it into, a path or a URL such as "s3://bucket/runs/x"; "auto" makes
                ``runs/<name>-<n>``, None writes nothing.
            progress: show a progress bar and a closing table.

        Returns:
            The result: metrics, final model, figures.

        Raises:
            ConfigError: the experiment does not fit the machine or the data.
            ClientError: a client's code failed.
        """
        from raysim.runtime.drive import drive

        return drive(self, folder, progress=progress)

    def to_yaml(self) -> str:
        """The experiment as a file that ``raysim run`` takes, every field written out."""
        from raysim.spec import dump

        return dump(self)

    @classmethod
    def from_yaml(cls, text: str, overrides: list[str] | None = None, name: str = "") -> Simulation:
        """The experiment a YAML text describes.

        Args:
            text: YAML; plug-ins are mappings with a ``name`` and their fields.
            overrides: changes as ``dotted.path=value``.
            name: used where the text has no name of its own.

        Raises:
            ConfigError: naming the field, what was got and what is allowed.
        """
        from raysim.spec import load

        return load(text, overrides or [], name)

    def replaced(self, **fields: Any) -> Simulation:
        """A copy with some fields changed, checked again."""
        return dataclasses.replace(self, **fields)
