"""What a probe has tried, kept on disk: the same command goes on where it was cut off, and tries only what is new."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from pyarrow import ArrowInvalid

from raysim import __version__, spec
from raysim.core.placement import Placement
from raysim.core.plugin import ConfigError
from raysim.simulation import Simulation
from tuning.population.many import grouped, run_all


class Ledger:
    """Metrics of experiments that have run, found again by what the experiments are.

    A search is a function of the metrics it sees, so that nothing else need be kept: with the same experiment it takes
    the same way again, and one with another value or seed finds whatever of its runs is here.

    Args:
        folder: they are kept in ``tried`` there, a Parquet file for each run; None keeps nothing.
        fresh: forget what was tried before.
        tell: called with a line when the first of them is found again.

    Raises:
        ConfigError: the folder cannot be written to.
    """

    def __init__(
        self,
        folder: Path | None,
        fresh: bool = False,
        tell: Callable[[str], object] | None = None,
    ) -> None:
        self.folder, self.found, self._tell = folder and folder / "tried", 0, tell
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for file in self.folder.glob("*.parquet") if fresh else ():
                file.unlink()
        except OSError as error:
            raise self._refused(error) from None

    def run_all(self, simulations: Sequence[Simulation]) -> list[pd.DataFrame]:
        """The metrics of every experiment, in their order; see ``tuning.population.many.run_all``.

        Raises:
            ConfigError: an experiment that only exists in Python is to be kept, or the disk takes no more.
        """
        if self.folder is None:
            return run_all(simulations)
        files = [self._file(simulation) for simulation in simulations]
        tables = {i: table for i, file in enumerate(files) if (table := _read(file)) is not None}
        if tables and not self.found and self._tell:
            self._tell(f"Some of it was tried before, in {self.folder.parent}; --fresh tries all of it anew.")
        self.found += len(tables)
        left = [i for i in range(len(simulations)) if i not in tables]
        for group, _ in grouped([simulations[i] for i in left]):  # kept as soon as a stack has run
            own = [left[j] for j in group]
            for i, table in zip(own, run_all([simulations[i] for i in own]), strict=True):
                self._write(files[i], table)
                tables[i] = table
        return [tables[i] for i in range(len(simulations))]

    def _file(self, simulation: Simulation) -> Path:
        """Where an experiment's metrics are: named after all that they depend on."""
        hidden = spec.opaque(simulation)
        if hidden:
            raise ConfigError(
                f"What was tried cannot be kept: {', '.join(hidden)} exists in Python only, and would not be known "
                "again. Leave out the folder."
            )
        text = f"raysim {__version__}\n{simulation.replaced(name='', placement=Placement()).to_yaml()}"
        assert self.folder is not None
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.parquet"

    def _write(self, file: Path, table: pd.DataFrame) -> None:
        """Whole or not at all."""
        part = file.with_suffix(".part")
        try:
            table.to_parquet(part, index=False)
            part.replace(file)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise self._refused(error) from None

    def _refused(self, error: OSError) -> ConfigError:
        return ConfigError(
            f"What was tried cannot be kept in {self.folder}: {error.strerror or error}. Make room there, or name "
            "another folder with --folder."
        )


def _read(file: Path) -> pd.DataFrame | None:
    """Metrics that were kept; None where there are none, or none that can be read."""
    try:
        return pd.read_parquet(file)
    except (OSError, ArrowInvalid):
        return None
