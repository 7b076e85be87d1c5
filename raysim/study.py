"""Study: variants of one experiment, each run with several seeds, compared in one table and one figure.

A study is an experiment's YAML with one more block:

    study:
      seeds: 3                                  # seed, seed + 1, seed + 2
      variants:
        averaging: {}
        ring: {rule: {name: Gossip, topology: Ring}}      # a mapping is merged into the experiment's; with another
        slower: {local.optimizer.lr: 0.05}                # name it replaces it; a dotted path reaches deeper
      plot: {metric: loss, against: [round, bits_up]}     # panels of the figure; a list of them is allowed
      columns: [consensus]                                # more columns of the table: what probes measure

With ``conditions``, changes of the same form, every variant is run under every condition. What is compared is then the
final value of the panels' metrics: a two-way table and a heat map.

      conditions:
        nobody hostile: {}
        signs flipped: {uplink: [{name: SignFlip, hostile: 0.3}]}
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from raysim import spec, study_runs, variants as written
from raysim.core.plugin import ConfigError
from raysim.report import grid as grids, study as report
from raysim.runtime import folder as folders
from raysim.runtime.storage import located
from raysim.simulation import Simulation
from raysim.variants import Panel

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Study:
    """Variants of one experiment.

    Args:
        name: of the study and its folder.
        variants: the experiments by label, with the first seed.
        seeds: runs of each variant, with seeds that count up from the experiment's.
        panels: of the figure.
        columns: of the metrics to put into the table, beside loss, accuracy, uplink and time.
        grid: how the labels are made of variants and conditions, if they are.
    """

    def __init__(
        self,
        name: str,
        variants: dict[str, Simulation],
        seeds: int = 1,
        panels: tuple[Panel, ...] = (Panel(),),
        columns: tuple[str, ...] = (),
        grid: grids.Grid | None = None,
    ) -> None:
        self.name, self.variants, self.seeds = name, variants, seeds
        self.panels, self.columns, self.grid = panels, columns, grid
        self.runs: dict[str, list[pd.DataFrame]] = {}
        _slugs(list(variants))

    @classmethod
    def from_yaml(
        cls, text: str, overrides: list[str] | None = None, name: str = "", seeds: int | None = None
    ) -> Study:
        """The study a YAML text describes.

        Args:
            text: YAML: an experiment and the block ``study``.
            overrides: changes of the experiment, or of ``study``, as ``dotted.path=value``; a variant's own come last.
            name: used where the text has no name of its own.
            seeds: in place of the file's.

        Raises:
            ConfigError: naming the variant and field, what was got and what is allowed.
        """
        tree = spec.read(text, overrides or [])
        if "study" not in tree:
            raise ConfigError(
                "This experiment has no block `study:` with variants to compare. Add one (`study: {variants: {...}}`), "
                "or run it alone with: raysim run"
            )
        block = written.block(tree.pop("study"))
        tree["name"] = tree.get("name") or name or "study"
        grid, changes = None, {label: (changes,) for label, changes in block.variants.items()}
        if block.conditions:
            grid = grids.Grid(tuple(block.conditions), tuple(block.variants))
            changes = {
                label: (block.variants[variant], block.conditions[condition])
                for label, condition, variant in grid.cells()
            }
        made = {label: written.variant(tree, label, *both) for label, both in changes.items()}
        return cls(str(tree["name"]), made, seeds or block.seeds, block.plot, block.columns, grid)

    @classmethod
    def of_rules(cls, overrides: list[str] | None = None, seeds: int | None = None) -> Study:
        """The study of all rules that comes with raysim."""
        return cls._shipped("rules", overrides, seeds)

    @classmethod
    def of_attacks(cls, overrides: list[str] | None = None, seeds: int | None = None) -> Study:
        """The study of robust rules under attack that comes with raysim."""
        return cls._shipped("attacks", overrides, seeds)

    @classmethod
    def _shipped(cls, name: str, overrides: list[str] | None, seeds: int | None) -> Study:
        file = resources.files("raysim") / "studies" / f"{name}.yaml"
        return cls.from_yaml(file.read_text(encoding="utf-8"), overrides, name, seeds)

    def run(
        self,
        folder: str | Path | None = "auto",
        *,
        fresh: bool = False,
        tell: Callable[[str], Any] | None = None,
    ) -> Study:
        """Run every variant with every seed, in turn; what has ended in the folder already is only read.

        Args:
            folder: a path or a URL, in which each run gets ``<variant>-<seed>``; "auto" is ``runs/<name>``, None writes
                nothing.
            fresh: remove earlier runs of the study and start anew.
            tell: called with a line for each run that has ended.

        Returns:
            The study itself, with its runs.

        Raises:
            ConfigError: a variant cannot run, or a folder holds a run of another experiment.
            KeyboardInterrupt: Ctrl-C; the next call continues.
        """
        root, runs = self._root(folder), {label: [] for label in self.variants}
        for label, name, simulation in self.experiments():
            try:
                table = study_runs.metrics(
                    simulation, None if root is None else study_runs.inside(root, name), fresh
                )
            except ConfigError as error:
                raise ConfigError(f"Variant {label!r}: {error}") from None
            runs[label].append(table)
            if tell:
                tell(f"{label}, seed {simulation.seed}: {report.ending(table)}")
        self.runs = runs
        return self

    def read(self, folder: str | Path = "auto", *, tell: Callable[[str], Any] | None = None) -> Study:
        """Take in the runs that have ended, wherever they ran, and run nothing.

        Args:
            folder: see ``run``.
            tell: called with a line for each run, also for those that are left out.

        Returns:
            The study itself, with the runs that have ended.

        Raises:
            ConfigError: none has ended; or not all have, where conditions make a two-way table of them.
        """
        root, runs, missing = self._root(folder), {}, 0
        assert root is not None, "runs are read from a folder"
        for label, name, simulation in self.experiments():
            place = study_runs.inside(root, name)
            state = folders.read_status(place)["status"] if study_runs.begun(place) else "not begun"
            if state in study_runs.ENDED:
                study_runs.require_same(simulation, place)
                runs.setdefault(label, []).append(table := pd.DataFrame(folders.read_metrics(place)))
                state = report.ending(table)
            else:
                state, missing = f"left out: {state}", missing + 1
            if tell:
                tell(f"{label}, seed {simulation.seed}: {state}")
        if not runs or (missing and self.grid):
            raise ConfigError(
                f"{missing} of the study's {missing + sum(map(len, runs.values()))} runs in {root} have not ended, so "
                f"that there is nothing to compare{' under all conditions' if runs else ''} yet."
            )
        self.runs = runs
        return self

    def experiments(self) -> list[tuple[str, str, Simulation]]:
        """What is run: the variant's label, the name of the run's folder in the study's, and the experiment."""
        slugs = _slugs(list(self.variants))
        return [
            (label, f"{slugs[label]}-{seed}", first.replaced(seed=seed))
            for label, first in self.variants.items()
            for seed in range(first.seed, first.seed + self.seeds)
        ]

    def _root(self, folder: str | Path | None) -> Path | str | None:
        return None if folder is None else Path("runs") / self.name if folder == "auto" else located(folder)

    def table(self) -> pd.DataFrame:
        """A row per variant: each metric's final value, mean and sample standard deviation (``_sd``) over seeds."""
        return report.summarised(self._ended(), self.columns)

    def printed(self, panels: tuple[Panel, ...] | None = None) -> Any:
        """The table for rich to print; with conditions a two-way table of each panel's metric.

        Args:
            panels: in place of the study's own.
        """
        if self.grid is None:
            return report.study_table(self.table(), self.name)
        metrics = [p.metric for p in panels or self.panels]
        return grids.tables(self._ended(), self.grid, metrics, self.name)

    def figure(self, panels: tuple[Panel, ...] | None = None) -> Figure:
        """A curve per variant, the mean over seeds in a band from the least to the largest; with conditions heat maps.

        Args:
            panels: in place of the study's own.
        """
        if self.grid is not None:
            return grids.figure(self._ended(), self.grid, [p.metric for p in panels or self.panels])
        pairs = [(p.metric, x) for p in panels or self.panels for x in p.against]
        return report.figure(self._ended(), pairs)

    def _ended(self) -> dict[str, list[pd.DataFrame]]:
        if not self.runs:
            raise ConfigError("This study has not run yet. Call its run() first.")
        return self.runs


def is_study(text: str) -> bool:
    """Whether a YAML text has a block ``study``."""
    return "study" in spec.read(text, [])


def _slugs(labels: list[str]) -> dict[str, str]:
    """A name of a folder for each label."""
    slugs = {label: re.sub(r"[^\w.+=-]+", "-", label).strip("-.") or "variant" for label in labels}
    for label, slug in slugs.items():
        twin = next(other for other in labels if slugs[other].lower() == slug.lower())
        if twin != label:
            raise ConfigError(
                f"Variants {twin!r} and {label!r} would share the folder {slug}. Give them names that differ in "
                "letters or digits."
            )
    return slugs
