"""A sweep as it is written: the block ``sweep`` of an experiment's YAML, and changes of it on the command line.

sweep:
  over:                                        # see spaces.py
    local.optimizer.lr: {log_uniform: [1e-3, 1]}
    local.batch_size: {grid: [8, 32]}
  metric: accuracy        # a column of the metrics; loss if not given
  mode: max               # min or max; what suits the metric if not given
  at: last                # its value after the last round, or the best one on the way
  seeds: 3                # runs of every configuration
  samples: 16             # draws for each combination of the grids
  scheduler: asha         # none, asha, median, pbt, or a mapping: {name: asha, grace: 5}
  search: random          # or optuna
  how: auto               # population (in this process), tune (Ray Tune)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from raysim import spec
from raysim.core.plugin import ConfigError, Count, CountOrZero, NonNegative, Plugin, shown
from tuning.spaces import KINDS

_OVER = "sweep.over."


@dataclass(frozen=True)
class Block(Plugin):
    """The block ``sweep`` of the file.

    Args:
        over: spaces by field, dotted.
        metric: column of the metrics.
        mode: whether it is to be small or large.
        at: "last" or "best" value of a run.
        seeds: runs of each configuration, with seeds that count up from the experiment's.
        samples: draws for each combination of the grids; 16 if not given.
        seed: of the draws.
        scheduler: what ends trials early.
        search: where draws come from.
        concurrent: trials at a time in Ray Tune; as many as fit if not given.
        how: "population" in this process, "tune" through Ray Tune, "auto" whichever is quicker.
        chunk: trials that train together in this process.
        reports: at most so many reports of a trial to Ray Tune.
        gpus: of a GPU for each trial that computes in its own process in Ray Tune.
    """

    over: dict[str, Any]
    metric: str = "loss"
    mode: Literal["min", "max"] | None = None
    at: Literal["last", "best"] = "last"
    seeds: Count = 1
    samples: Count | None = None
    seed: CountOrZero = 0
    scheduler: Any = "none"
    search: Literal["random", "optuna"] = "random"
    concurrent: Count | None = None
    how: Literal["auto", "population", "tune"] = "auto"
    chunk: Count = 32
    reports: Count = 20
    gpus: NonNegative = 0.0

    def check(self) -> None:
        """Something to vary."""
        if not self.over:
            raise ConfigError(
                "over is empty. Name a field: over: {local.optimizer.lr: {log_uniform: [1e-3, 1]}}."
            )


def read_block(tree: Any) -> Block:
    """The block ``sweep``."""
    if not isinstance(tree, dict):
        raise ConfigError(f"sweep must be a mapping with over, got {shown(tree)}.")
    try:
        built = spec.build(Block, tree, "sweep", named=False)
    except ConfigError as error:
        raise ConfigError(str(error).replace("sweep: Block", "sweep")) from None
    assert isinstance(built, Block)
    return built


def read_tree(text: str, overrides: list[str]) -> dict[str, Any]:
    """What a YAML text holds, with overrides ``dotted.path=value``; in ``sweep.over`` a whole path is one key.

    Raises:
        ConfigError: it is not YAML, or a change leads nowhere.
    """
    tree = spec.read(text, [])
    for override in overrides:
        path, equals, value = override.partition("=")
        over = tree.get("sweep", {}).get("over") if isinstance(tree.get("sweep"), dict) else None
        if not path.strip().startswith(_OVER) or not isinstance(over, dict):
            spec._override(tree, override)
            continue
        field = path.strip().removeprefix(_OVER)
        key = next((key for key in map(str, over) if _inside(key, field)), field)
        name = key.replace(".", "/")
        holder = {name: over.get(key)}
        spec._override(holder, f"{name}{field[len(key) :]}{equals}{value}")
        over[key] = holder[name]
    return tree


def _inside(key: str, field: str) -> bool:
    """Whether a path leads into the space of a field: ``local.optimizer.lr.log_uniform.0``."""
    first = field.removeprefix(f"{key}.").partition(".")[0]
    return field.startswith(f"{key}.") and (first in KINDS or first.isdigit())
