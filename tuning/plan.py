"""A sweep, checked: its experiment, spaces and configurations."""

from __future__ import annotations

import copy
import functools
import importlib.util
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from raysim import spec
from raysim.core.plugin import ConfigError
from raysim.report.units import higher_is_better
from raysim.simulation import Simulation
from tuning import paths, schedulers, spaces
from tuning.block import Block, read_block, read_tree
from tuning.schedulers import PBT, Scheduler
from tuning.spaces import Range, Space

SAMPLES = 16  # draws where nobody says how many
_FIXED = {
    "seed": "Every configuration runs with the same seeds: say how many with sweep.seeds.",
    "name": "A name changes nothing.",
    "placement": "Where clients live changes no number.",
}


class Plan:
    """A sweep, checked: every configuration that is known beforehand can be built.

    Args:
        base: the experiment.
        block: what to vary, and how.
        name: of the sweep and its folder.

    Raises:
        ConfigError: which field, what was got, what to write instead.
    """

    def __init__(self, base: Simulation, block: Block, name: str = "") -> None:
        self.name = name or base.name or "sweep"
        self.base, self.block = base.replaced(name=self.name), block
        self.spaces = {path: _space(base, path, written) for path, written in block.over.items()}
        self.mode = block.mode or ("max" if higher_is_better(block.metric) else "min")
        self.scheduler: Scheduler | None = schedulers.read(block.scheduler)
        self.points = spaces.points(self.spaces, self.samples, block.seed) if block.search == "random" else []
        self.how = self._route()
        self._check()
        for i, point in enumerate(self.points):
            try:
                self.simulation(point)
            except ConfigError as error:
                raise ConfigError(f"Configuration {i} ({label(point)}): {error}") from None

    @classmethod
    def from_yaml(cls, text: str, overrides: list[str] | None = None, name: str = "") -> Plan:
        """The sweep a YAML text describes.

        Args:
            text: YAML: an experiment and the block ``sweep``.
            overrides: changes of either, as ``dotted.path=value``.
            name: used where the text has no name of its own.
        """
        tree = read_tree(text, overrides or [])
        if "sweep" not in tree:
            raise ConfigError(
                "This experiment has no block `sweep:`. Say what to vary, such as sweep: {over: {local.optimizer.lr: "
                "{log_uniform: [1e-3, 1]}}}, or run it alone with: raysim run"
            )
        block = read_block(tree.pop("sweep"))
        tree["name"] = tree.get("name") or name or "sweep"
        return cls(_base(tree, block), block)

    def simulation(self, point: dict[str, Any], seed: int | None = None) -> Simulation:
        """The experiment of a configuration.

        Args:
            point: coded values by field.
            seed: in place of the experiment's.
        """
        values = {path: self.spaces[path].meant(value) for path, value in point.items()}
        if seed is not None:
            values["seed"] = seed
        return paths.changed(self.base, values)

    def require_metric(self, columns: Iterable[str]) -> None:
        """Refuse a metric that is not among the columns of a run.

        Raises:
            ConfigError: with those that are.
        """
        columns = [name for name in columns if name != "round"]
        if self.block.metric not in columns:
            raise ConfigError(
                f"sweep.metric is {self.block.metric!r}, which no run measures. Known: {', '.join(columns)}."
            )

    @functools.cached_property
    def seeds(self) -> tuple[int, ...]:
        """Of each configuration's runs."""
        return tuple(range(self.base.seed, self.base.seed + self.block.seeds))

    @property
    def samples(self) -> int:
        """Draws for each combination of the grids."""
        return self.block.samples or SAMPLES

    @property
    def apart(self) -> bool:
        """Whether Ray Tune sees every seed as a trial of its own: a scheduler or a search is to see their mean."""
        return self.scheduler is None and self.block.search == "random"

    @property
    def revives(self) -> bool:
        """Whether a run that diverged may go on from another's model."""
        return isinstance(self.scheduler, PBT)

    def to_yaml(self) -> str:
        """The sweep as a file, every field written out.

        Raises:
            ConfigError: a part exists in Python only.
        """
        block = {f.name: getattr(self.block, f.name) for f in fields(Block)}
        block["over"] = {path: _plain(space.written()) for path, space in self.spaces.items()}
        block |= {"mode": self.mode, "scheduler": schedulers.written(self.scheduler)}
        return spec.yaml.safe_dump(spec.picture(self.base) | {"sweep": block}, sort_keys=False, width=120)

    # ---- checks ------------------------------------------------------------------------------------------------

    def _route(self) -> str:
        """Ray Tune where something needs it."""
        needs = self._needs_tune()
        if self.block.how == "population" and needs:
            raise ConfigError(
                f"sweep.how is population, but {needs} needs Ray Tune. Write how: tune, or leave it out."
            )
        return "tune" if needs or self.block.how == "tune" else "population"

    def _needs_tune(self) -> str:
        if self.scheduler is not None:
            return f"the scheduler {type(self.scheduler).__name__.lower()}"
        if self.block.search == "optuna":
            return "the search optuna"
        actors = self.base.placement.actors
        return f"an experiment with placement.actors={actors}" if actors else ""

    def _check(self) -> None:
        block, place = self.block, self.base.placement
        for path in self.spaces:
            reason = _FIXED.get(path.partition(".")[0])
            if reason:
                raise ConfigError(f"sweep.over.{path} cannot be varied. {reason}")
        if "rounds" in self.spaces and self.scheduler is not None:
            raise ConfigError(
                "sweep.over.rounds cannot be varied where a scheduler compares trials after the same number of rounds. "
                "Write scheduler: none."
            )
        self._require_meant()
        if block.search == "optuna" and importlib.util.find_spec("optuna") is None:
            raise ConfigError("sweep.search is optuna, which is not installed. Run: pip install optuna")
        in_process = self.how == "tune" and place.actors == 0
        if in_process and (place.device == "cuda") != (block.gpus > 0):
            raise ConfigError(
                f"sweep.gpus is {block.gpus:g} and placement.device is {place.device}. A trial that computes on a GPU "
                "in its own process needs both: device: cuda and the share of a GPU that it gets, such as gpus: 0.25."
            )
        if isinstance(self.scheduler, PBT):
            self._check_pbt()

    def _require_meant(self) -> None:
        """Refuse options that would change nothing."""
        block = self.block
        here, listed = self.how == "population", not any(space.drawn for space in self.spaces.values())
        if block.concurrent is not None and (here or self.revives):
            why = (
                "in pbt all trials wait for each other" if self.revives else "this sweep runs in one process"
            )
            raise ConfigError(
                f"sweep.concurrent is {block.concurrent}, but {why}. Leave it out"
                + (", or write how: tune." if here else ".")
            )
        if block.gpus and (here or self.base.placement.actors):
            why = "runs in this process: see placement.device" if here else "has actors: see gpus_per_actor"
            raise ConfigError(f"sweep.gpus is {block.gpus:g}, but this sweep {why}. Leave it out.")
        if block.samples is not None and block.search == "random" and listed:
            raise ConfigError(
                f"sweep.samples is {block.samples}, but nothing is drawn: every value of a grid is run. Leave it out."
            )

    def _check_pbt(self) -> None:
        if self.block.search == "optuna":
            raise ConfigError("sweep.scheduler pbt changes values itself: it goes with search: random.")
        if len(self.points) < 2:
            raise ConfigError("sweep.scheduler pbt needs at least two configurations. Raise sweep.samples.")
        for path, space in self.spaces.items():
            numbers = isinstance(space, Range) or all(isinstance(v, (int, float)) for v in space.values)
            if not numbers or path.partition(".")[0] not in ("local", "rule", "uplink", "downlink"):
                raise ConfigError(
                    f"sweep.scheduler pbt changes values while a run goes on, which {path} does not allow. Vary "
                    "numbers of local, rule, uplink and downlink."
                )


def is_sweep(text: str) -> bool:
    """Whether a YAML text has a block ``sweep``."""
    return "sweep" in spec.read(text, [])


def label(point: dict[str, Any]) -> str:
    """A configuration in words: "lr=0.1, batch_size=8", longer names where short ones meet."""
    short = names(list(point))
    return ", ".join(f"{short[path]}={_shown(value)}" for path, value in point.items())


def names(given: list[str]) -> dict[str, str]:
    """The shortest ends of dotted paths that tell them apart."""
    found = {}
    for path in given:
        parts = path.split(".")
        ends = (".".join(parts[-n:]) for n in range(1, len(parts) + 1))
        alone = lambda end, path=path: not any(o != path and f".{o}".endswith(f".{end}") for o in given)
        found[path] = next((end for end in ends if alone(end)), path)
    return found


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


# ---- reading ---------------------------------------------------------------------------------------------------


def _base(tree: dict[str, Any], block: Block) -> Simulation:
    """The experiment; where it lacks a field that is varied, with that field's first value."""
    build = lambda tree: spec.build(Simulation, tree, "experiment", named=False)
    try:
        base = build(tree)
    except ConfigError as first:
        try:
            base = build(_filled(tree, block))
        except ConfigError as error:
            filled = "" if str(error) == str(first) else "With the first value of every field in sweep.over: "
            raise ConfigError(f"{filled}{error}") from None
    assert isinstance(base, Simulation)
    return base


def _filled(tree: dict[str, Any], block: Block) -> dict[str, Any]:
    tree = copy.deepcopy(tree)
    for path, written in block.over.items():
        space = spaces.read(path, written, lambda whole: whole)
        paths.put(tree, path, _plain(space.first))
    return tree


def _space(base: Simulation, path: str, written: Any) -> Space:
    """The space of a field, which says whether it takes whole numbers."""
    try:
        hint = paths.hint(base, path)
    except ConfigError as error:
        raise ConfigError(f"sweep.over: {error}") from None
    takes_int, takes_float = paths.admits(hint, int), paths.admits(hint, float)
    return spaces.read(path, written, lambda ends: takes_int and (ends or not takes_float))


def _plain(tree: Any) -> Any:
    """Plug-ins as mappings, for YAML."""
    if isinstance(tree, dict):
        return {k: _plain(v) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_plain(v) for v in tree]
    return spec._plain(tree)
