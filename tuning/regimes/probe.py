"""Scaling regimes: where a larger batch, more clients or more local steps stop to help.

An experiment's YAML with one more block:

    regimes:
      along: batch_size                    # or clients, local_steps
      values: [1, 2, 4, 8, 16, 32, 64]
      target: 0.1                          # of the test loss; metric: accuracy, or a probe's, for another
      steps: {log_grid: [0.25, 4, 7]}      # step sizes around a guess that grows with the value
      seeds: 3
      max_rounds: 2000
      examples_per_round: 64               # one client only: a round's local steps go through so many examples
      variants:                            # several methods in one figure; changes as in a study
        SGD: {}
        MaSS: {local.optimizer: {name: MaSS, lr: 0.1, alpha: 0.05, kappa: 2}}

For every value the best step size is found by the mean number of rounds to the target over seeds, the regimes are
fitted (see ``fits.py``), and what theory says of the training data and the gradient noise scale stand beside them.

Batches walk through shuffled epochs, so that with sizes near that of the training set they are no independent draws,
which theory speaks of: take a training set several times larger than the largest batch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from raysim import spec
from raysim.core.plugin import ConfigError
from raysim.optimizers.mass import MaSS
from raysim.simulation import Simulation
from raysim.variants import variant
from tuning.regimes import fits, noise
from tuning.regimes.block import Block, read, require, require_examples, with_clients
from tuning.regimes.finding import Finding
from tuning.regimes.ledger import Ledger
from tuning.regimes.stepsize import Goal, Search
from tuning.regimes.theory import Theory, theory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIRST = 32  # a value's first horizon is this part of max_rounds, the others follow from the value before
MARGIN = 1.15


class Regimes:
    """A probe of scaling.

    Args:
        block: what to probe.
        variants: experiments by label.
        name: of the whole.
    """

    def __init__(self, block: Block, variants: Mapping[str, Simulation], name: str = "regimes") -> None:
        self.block, self.variants, self.name = block, dict(variants), name
        self.findings: dict[str, Finding] = {}
        for simulation in self.variants.values():
            require(block, simulation)

    @classmethod
    def from_yaml(cls, text: str, overrides: list[str] | None = None, name: str = "") -> Regimes:
        """The probe that a YAML text describes: an experiment and the block ``regimes``.

        Args:
            text: YAML.
            overrides: changes as ``dotted.path=value``, of ``regimes`` too.
            name: used where the text has no name of its own.

        Raises:
            ConfigError: naming the field, what was got and what is allowed.
        """
        tree = spec.read(text, overrides or [])
        block = tree.pop("regimes", None)
        if not isinstance(block, dict):
            raise ConfigError(
                "This experiment has no block `regimes:` that says along what to probe it. Add one (regimes: {along: "
                "batch_size, values: [1, 2, 4, 8], target: 0.1}), or run it alone with: raysim run"
            )
        built = read(block)
        if (
            built.along == "clients"
            and isinstance(tree.get("partition"), dict)
            and "clients" in tree["partition"]
        ):
            tree["partition"] = tree["partition"] | {
                "clients": built.values[-1]
            }  # of which a cohort may be part
        tree["name"] = name = str(tree.get("name") or name or "regimes")
        made = {label: variant(tree, label, c) for label, c in built.variants.items()}
        return cls(built, made or {name: variant(tree, name)}, name)

    def run(
        self,
        tell: Callable[[str], object] | None = None,
        folder: str | Path | None = None,
        fresh: bool = False,
    ) -> Regimes:
        """Find the best step size of every value of every variant, and fit the regimes.

        Args:
            tell: called with a line as things happen.
            folder: keeps what is tried, so that the same call goes on after an interruption; None keeps nothing.
            fresh: forget what was tried before.

        Returns:
            The probe itself, with its findings; those so far where it is interrupted.

        Raises:
            ConfigError: the experiment's data are not such as the block needs, or the folder cannot be written to.
        """
        ledger = Ledger(None if folder is None else Path(folder), fresh, tell)
        found = {label: self._ready(label, s) for label, s in self.variants.items()}
        self.findings = {}
        for label in found:
            self.findings[label] = found[label]
            self._search(label, found[label], ledger, tell)
            self._judge(found[label])
        return self

    def table(self) -> pd.DataFrame:
        """A row per variant and value: best step size, and what the target took, mean and ``_sd`` over seeds."""
        from tuning.regimes.report import table

        return table(self._done())

    def text(self) -> str:
        """What to use, in words."""
        from tuning.regimes.report import text

        return text(self._done())

    def printed(self) -> Any:
        """The table, for rich to print."""
        from tuning.regimes.report import printed

        return printed(self._done())

    def figure(self) -> Figure:
        """What the target takes, and the best step sizes; the regimes shaded."""
        from tuning.regimes.plots import figure

        return figure(self._done())

    def _done(self) -> Regimes:
        if not self.findings:
            raise ConfigError("This probe has found nothing yet. Call its run() first.")
        return self

    # ---- searching -------------------------------------------------------------------------------------------

    def _ready(self, label: str, simulation: Simulation) -> Finding:
        """A variant whose data are such as the block needs; and what theory says of them."""
        try:
            shares_N = require_examples(self.block, simulation)
            known = theory(simulation, self.block.along)
            if self.block.momentum == "theory" and known is None:
                raise ConfigError(
                    "momentum: theory needs SGD or MaSS alone, on data that a linear model fits exactly, or a network; "
                    "and a round that is a step on a batch. Write momentum: fixed, or leave it out."
                )
        except ConfigError as error:
            raise ConfigError(
                f"Variant {label!r}: {error}" if len(self.variants) > 1 else str(error)
            ) from None
        return Finding(simulation, shares_N, theory=known)

    def _search(
        self, label: str, found: Finding, ledger: Ledger, tell: Callable[[str], object] | None
    ) -> None:
        """Find the best step size of every value."""
        block, simulation, known = self.block, found.simulation, found.theory
        guess = self._first_guess(simulation, known)
        horizon, before = max(1, block.max_rounds // FIRST), block.values[0]
        for value in block.values:
            guess *= self._growth(known, before, value)
            say = (lambda line, v=value: tell(f"{label}, {block.along} {v}: {line}")) if tell else None
            seeds = range(simulation.seed, simulation.seed + block.seeds)
            make = lambda lr, seed, rounds, v=value: self.at(simulation, known, v, lr, seed, rounds)
            goal = Goal(block.metric, block.target)
            search = Search(make, goal, seeds, block.steps, block.max_rounds, ledger.run_all, say)
            lr = search.run(guess, horizon)
            found.trials += search.trials
            before = value
            if lr is None:
                continue
            found.best[value] = (lr, search.rounds[lr], search.tables[lr])
            if search.edge:
                found.edges[value] = search.edge
            guess = lr
            horizon = self._horizon(found, value)

    def sizes(self, found: Finding) -> int:
        """How many critical sizes are fitted."""
        two = isinstance(found.simulation.local.optimizer, MaSS) and self.block.along == "batch_size"
        return self.block.sizes or (2 if two else 1)

    def _judge(self, found: Finding) -> None:
        """Fit the regimes, and measure the noise."""
        block, sizes, values = self.block, self.sizes(found), sorted(found.best)
        if len(values) >= sizes + 2:
            found.fit = fits.fit(values, [self.cost(found, v) for v in values], sizes, block.level)
        if block.noise and values and block.along != "local_steps":
            lr, rounds, _ = found.best[values[0]]  # of small batches a round has many
            seed = found.simulation.seed
            run = self.at(found.simulation, found.theory, values[0], lr, seed, math.ceil(rounds[0]))
            try:
                found.noise = noise.along(run)
            except ConfigError as error:
                found.no_noise = str(error)

    def at(
        self, simulation: Simulation, known: Theory | None, value: int, lr: float, seed: int, rounds: int
    ) -> Simulation:
        """The experiment at one value of the axis, with one step size."""
        block, local = self.block, simulation.local
        optimizer = local.optimizer
        if isinstance(optimizer, MaSS) and known is not None and self._by_theory(known):
            optimizer = known.mass(value, optimizer)
        steps, batch = local.steps, local.batch_size
        if block.along == "batch_size":
            batch, steps = value, self._steps(value, steps)
        elif block.along == "local_steps":
            steps = value
        else:
            simulation = with_clients(simulation, value)
        optimizer = dataclasses.replace(optimizer, lr=lr)  # type: ignore[type-var]
        local = dataclasses.replace(local, optimizer=optimizer, steps=steps, batch_size=batch)
        return simulation.replaced(local=local, seed=seed, rounds=rounds)

    def _steps(self, batch: int, steps: int | None) -> int | None:
        """Local steps a round with that batch size."""
        examples = self.block.examples_per_round
        return steps if examples is None else max(1, round(examples / batch))

    def _by_theory(self, known: Theory) -> bool:
        return self.block.momentum == "theory" or (self.block.momentum is None and known.exact)

    def _first_guess(self, simulation: Simulation, known: Theory | None) -> float:
        """1 / L_m where that is known; else the experiment's own step size."""
        if known is not None and known.exact:
            return known.lr(self.block.values[0])
        lr = simulation.local.optimizer.lr
        assert isinstance(lr, (int, float))
        return float(lr)

    def _growth(self, known: Theory | None, before: int, value: int) -> float:
        """How the best step size is expected to change from one value to the next.

        As theory says; else with the square root of batch size and clients, and falling likewise with local steps.
        """
        if known is not None and known.exact:
            return known.lr(value) / known.lr(before)
        return (value / before) ** (-0.5 if self.block.along == "local_steps" else 0.5)

    def _horizon(self, found: Finding, value: int) -> int:
        """Rounds to try at the next value: as many steps as this one took, or rounds along local steps."""
        rounds = float(found.best[value][1].max())
        later = [v for v in self.block.values if v > value]
        if later and self.block.examples_per_round:
            rounds *= (self._steps(value, 1) or 1) / (self._steps(later[0], 1) or 1)
        return math.ceil(MARGIN * rounds) + 1

    # ---- what a target takes ---------------------------------------------------------------------------------

    def steps_per_round(self, found: Finding, value: int) -> int:
        """Local steps a round at that value."""
        if self.block.along == "local_steps":
            return value
        steps = found.simulation.local.steps
        return (self._steps(value, steps) if self.block.along == "batch_size" else steps) or 0

    def iterations(self, found: Finding, value: int) -> np.ndarray:
        """Steps of each client to the target, for each seed."""
        return found.best[value][1] * self.steps_per_round(found, value)

    def cost(self, found: Finding, value: int) -> np.ndarray:
        """What the regimes are about: iterations, or rounds along local steps."""
        return found.best[value][1] if self.block.along == "local_steps" else self.iterations(found, value)


def regimes(simulation: Simulation, tell: Callable[[str], object] | None = None, **block: Any) -> Regimes:
    """Probe how an experiment scales; see ``Block`` for what can be said.

    Args:
        simulation: the experiment.
        tell: called with a line as things happen.
        block: fields of ``Block``: values, target, along, ...; variants are for files.

    Returns:
        The probe, which has a table, a figure and a text.
    """
    if "variants" in block:
        raise ConfigError(
            "Variants belong to a file's block `regimes`. From Python, call regimes for each of them."
        )
    return Regimes(read(block), {simulation.name or "experiment": simulation}).run(tell)
