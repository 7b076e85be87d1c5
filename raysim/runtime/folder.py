"""The folder a run leaves.

experiment.yaml      the experiment, every field written out, with the versions that ran it
run.json             status, round, form and block, seconds
metrics.jsonl        one line per evaluated round, flushed as it comes
metrics.parquet      the same as a table, at the end
checkpoints/         see checkpoint.py
figures/             learning curves
"""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from raysim.core.plugin import ConfigError
from raysim.runtime import checkpoint


class RunFolder:
    """Reads and writes a run's folder.

    Args:
        path: where it is; made if missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"The run's folder {path} cannot be made: {error}. Choose another with --folder."
            ) from None

    def begin(self, text: str) -> None:
        """Write the experiment; an older run here is refused."""
        if (self.path / "run.json").exists():
            raise ConfigError(
                f"{self.path} holds a run already. Continue it with: raysim resume {self.path}; or choose another."
            )
        head = f"# raysim {version('raysim')}, torch {version('torch')}, Python {platform.python_version()}\n"
        try:
            checkpoint.write(self.path / "experiment.yaml", head + text)
        except OSError as error:
            raise ConfigError(f"The run's folder {self.path} cannot be written: {error}.") from None

    def status(self, **facts: Any) -> None:
        """Write run.json."""
        facts |= {"raysim": version("raysim"), "torch": version("torch"), "pid": os.getpid()}
        checkpoint.write(self.path / "run.json", json.dumps(facts, indent=1))

    def append(self, row: dict[str, Any]) -> None:
        """One line of metrics, on its way to the disk when this returns."""
        with open(self.path / "metrics.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")

    def truncate(self, round: int) -> list[dict[str, Any]]:
        """Forget metrics of later rounds than ``round``; returns what stays."""
        rows = [row for row in read_metrics(self.path) if row["round"] <= round]
        checkpoint.write(self.path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        return rows

    def table(self) -> pd.DataFrame:
        """The metrics as a table, also written as Parquet."""
        table = pd.DataFrame(read_metrics(self.path))
        table.to_parquet(self.path / "metrics.parquet")
        return table


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl; a last line cut short by a crash is dropped."""
    file = path / "metrics.jsonl"
    rows = []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def read_status(path: Path) -> dict[str, Any]:
    """run.json.

    Raises:
        ConfigError: there is no run in that folder.
    """
    try:
        return json.loads((path / "run.json").read_text())
    except OSError:
        there = "it does not exist" if not path.exists() else "it has no run.json"
        raise ConfigError(f"{path} is not a run's folder: {there}.") from None


def fresh(name: str, root: Path = Path("runs")) -> Path:
    """A folder ``runs/<name>-<n>`` that does not exist yet, made by the one who asks for it."""
    number = 1
    while True:
        path = root / f"{name or 'run'}-{number}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            number += 1
        except OSError as error:
            raise ConfigError(
                f"The run's folder {path} cannot be made: {error}. Choose another with --folder."
            ) from None
        else:
            return path
