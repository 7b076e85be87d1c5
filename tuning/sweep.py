"""Sweeps: an experiment over values of its fields, each configuration with several seeds, the best written back.

>>> import raysim as rs
>>> from tuning.sweep import sweep      # tuning.sweep(...) is the same
>>> experiment = rs.Simulation(
...     data=rs.data.Digits(), partition=rs.partitions.IID(clients=4), model=rs.models.Linear(),
...     local=rs.Local(optimizer=rs.optimizers.SGD(lr=0.1), steps=2, batch_size=8), rounds=2,
... )
>>> found = sweep(experiment, {"local.optimizer.lr": [0.01, 0.1]}, folder=None)
>>> found.best().local.optimizer.lr
0.1
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from raysim import spec
from raysim.core.plugin import ConfigError, shown
from raysim.runtime.checkpoint import write
from raysim.simulation import Simulation
from tuning import table as tables
from tuning.folder import Folder
from tuning.live import Watch
from tuning.plan import Plan, label, read_block
from tuning.records import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path("runs") / "sweeps"


def sweep(
    experiment: Simulation | str | Path,
    over: dict[str, Any] | None = None,
    *,
    overrides: list[str] | None = None,
    folder: str | Path | None = "auto",
    resume: bool = False,
    fresh: bool = False,
    progress: bool = False,
    tell: Callable[[str], Any] | None = None,
    **options: Any,
) -> Sweep:
    """Run an experiment over values of its fields.

    Args:
        experiment: an experiment, or a YAML file with a block ``sweep``.
        over: spaces by dotted field, as in YAML: ``{"local.optimizer.lr": {"log_uniform": [1e-3, 1]}}``.
        overrides: changes of the file as ``dotted.path=value``.
        folder: what to write it into; "auto" is ``runs/sweeps/<name>``, None writes nothing.
        resume: go on with the sweep in that folder; what has ended is not run again.
        fresh: remove the sweep in that folder and start anew.
        progress: show a table with what is done, and the time left.
        tell: called with each line in place of printing it.
        **options: the other fields of the block ``sweep`` (see ``tuning.plan.Block``): metric, mode, seeds, ...

    Returns:
        The sweep, with its runs.

    Raises:
        ConfigError: which field, what was got, what to write instead.
        KeyboardInterrupt: Ctrl-C; ``resume`` goes on.
    """
    found = Sweep(plan_of(experiment, over, overrides, options), folder)
    return found.run(resume=resume, fresh=fresh, progress=progress, tell=tell)


def plan_of(
    experiment: Simulation | str | Path,
    over: dict[str, Any] | None,
    overrides: list[str] | None,
    options: dict[str, Any],
) -> Plan:
    """The plan behind what ``sweep`` is given."""
    if isinstance(experiment, Simulation):
        if over is None:
            raise ConfigError(
                "Say what to vary: sweep(experiment, {'local.optimizer.lr': {'log_uniform': [1e-3, 1]}})."
            )
        return Plan(experiment, read_block({"over": over, **options}))
    if not isinstance(experiment, (str, Path)):
        raise ConfigError(
            f"experiment must be an experiment or a file that holds one, got {shown(experiment)}."
        )
    if over is not None or options:
        raise ConfigError("A file says itself what to vary, in its block `sweep`: change it with overrides.")
    path = Path(experiment)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"The sweep {path} cannot be read: {error.strerror}.") from None
    return Plan.from_yaml(text, overrides, path.stem)


def _named(name: str) -> Path:
    """The folder of a sweep that is given none."""
    if Path(name).name != name or name == "..":
        raise ConfigError(
            f"The name {name!r} is no folder's. Take another, or say where to write with --folder."
        )
    return ROOT / name


class NoBest(ConfigError):
    """Every configuration diverged or failed."""


class Sweep:
    """A sweep and what it has found.

    Args:
        plan: what to run.
        folder: "auto" is ``runs/sweeps/<name>``, None for nowhere.
    """

    def __init__(self, plan: Plan, folder: str | Path | None = "auto") -> None:
        self.plan = plan
        self.folder = None if folder is None else _named(plan.name) if folder == "auto" else Path(folder)
        self.runs: list[Run] = []

    @classmethod
    def read(cls, folder: str | Path) -> Sweep:
        """The sweep in a folder, as far as it has come.

        Raises:
            ConfigError: there is none, or parts of it exist in Python only.
        """
        there = Folder(Path(folder))
        text = there.text()
        if text.startswith("# Not complete"):
            raise ConfigError(
                f"{folder}/sweep.yaml is not complete ({text.splitlines()[0].strip('# ')}). Go on with it from Python: "
                "tuning.sweep(experiment, over, folder=..., resume=True)."
            )
        found = cls(Plan.from_yaml(text), folder)
        found.runs = there.runs()
        return found

    def run(
        self,
        *,
        resume: bool = False,
        fresh: bool = False,
        progress: bool = False,
        tell: Callable[[str], Any] | None = None,
    ) -> Sweep:
        """Run what has not ended yet (see ``sweep``)."""
        if self.folder is None:
            with tempfile.TemporaryDirectory(prefix="raysim-sweep-") as place:
                self._run(Path(place), progress, tell)
            return self
        there = Folder(self.folder)
        there.require_sense(resume, fresh)
        with there.locked():
            self.runs[:] = there.begin(self._text(), resume, fresh)
            try:
                self._run(self.folder, progress, tell)
            except BaseException:
                with contextlib.suppress(Exception):  # the first error is the one to show
                    self._write(self.folder)
                raise
            self._write(self.folder)
        return self

    def _run(self, place: Path, progress: bool, tell: Callable[[str], Any] | None) -> None:
        """Run what is left."""
        from tuning import here

        if not self.runs:
            here.try_metric(self.plan)
        with Watch(self.plan, self.runs, progress, tell) as watch:
            keep = lambda run: self._keep(run, watch)
            if self.plan.how == "tune":
                from tuning import tuned

                tuned.run(self.plan, place, list(self.runs), keep, watch)
            else:
                here.run(self.plan, list(self.runs), keep, watch)

    # ---- results -----------------------------------------------------------------------------------------------

    def table(self) -> pd.DataFrame:
        """A row per configuration, best first: mean and spread of the metric over seeds, how its runs ended."""
        return tables.summarised(self._ended(), self.plan)

    def trials(self) -> pd.DataFrame:
        """A row per run."""
        return tables.trials(self._ended(), self.plan)

    def curves(self) -> pd.DataFrame:
        """The metrics of all runs, one under the other."""
        return tables.curves(self._ended())

    def printed(self, most: int | None = None) -> Any:
        """The table for rich to print.

        Args:
            most: configurations to show, the best ones; all if not given.
        """
        table = self.table()
        return tables.printed(table if most is None else table.head(most), self.plan)

    def figure(self) -> Figure:
        """The metric over what was varied."""
        from tuning.plots import figure

        return figure(self._ended(), self.plan)

    @property
    def failed(self) -> list[Run]:
        """Runs whose code failed, each with its traceback."""
        return [run for run in self.runs if run.status == "failed"]

    def best(self) -> Simulation:
        """The experiment of the best configuration.

        Raises:
            NoBest: every configuration diverged or failed.
        """
        return self.plan.simulation(self._best()["values"])

    def best_yaml(self) -> str:
        """The same as a file that ``raysim run`` takes, headed by what it came to."""
        best, experiment = self._best(), self.best().replaced(name=f"{self.plan.name}-best")
        at = "final" if self.plan.block.at == "last" else "best"
        spread = f" ± {best['sd']:.3g}" if best["sd"] == best["sd"] else ""
        head = f"# Best of {len(self.table())} configurations ({label(best['values'])})"
        head += f" by {at} {self.plan.block.metric}: {best['mean']:.6g}{spread}"
        seeds = len(self.plan.seeds)
        head += "\n" if best["runs"] == seeds else f", with {best['runs']} of {seeds} seeds so far\n"
        for round, values in best["history"][:-1] and best["history"]:
            head += f"# Values changed on the way, which this file does not hold: from round {round} {label(values)}\n"
        hidden = spec.opaque(experiment)
        if hidden:
            return f"{head}# Not complete: {', '.join(hidden)} exists in Python only.\n"
        return head + experiment.to_yaml()

    def _best(self) -> dict[str, Any]:
        first = self.table().iloc[0]
        mean = float(first[self.plan.block.metric])
        if mean != mean:
            raise NoBest(
                "No configuration of this sweep came to an end with all its seeds: every one diverged or failed. Try "
                "smaller step sizes."
            )
        runs = [run for run in self.runs if run.trial == first["trial"]]
        sd = float(first[f"{self.plan.block.metric}_sd"])
        return {
            "values": runs[-1].values,
            "mean": mean,
            "sd": sd,
            "runs": len(runs),
            "history": runs[-1].history,
        }

    def _ended(self) -> list[Run]:
        if not self.runs:
            raise ConfigError("No run of this sweep has ended yet.")
        return self.runs

    # ---- the folder --------------------------------------------------------------------------------------------

    def _text(self) -> str:
        hidden = spec.opaque(self.plan.base)
        if hidden:
            return f"# Not complete: {', '.join(hidden)} exists in Python only.\n# over: {sorted(self.plan.spaces)}\n"
        return self.plan.to_yaml()

    def _keep(self, run: Run, watch: Watch) -> None:
        self.runs[:] = [other for other in self.runs if other.key != run.key] + [run]
        if self.folder is not None:
            Folder(self.folder).append(run)
        watch.ended(run)

    def _write(self, folder: Path) -> None:
        """Tables, the best experiment and the figure."""
        if not self.runs:
            return
        try:
            self.trials().to_parquet(folder / "trials.parquet")
            self.curves().to_parquet(folder / "curves.parquet")
            try:
                write(folder / "best.yaml", self.best_yaml())
            except NoBest:
                (folder / "best.yaml").unlink(missing_ok=True)
            self.figure().savefig(folder / "sweep.png", dpi=150)
        except OSError as error:
            raise ConfigError(
                f"Tables and figure cannot be written to {folder}: {error}. Make room; then: {Folder(folder).again}"
            ) from None
