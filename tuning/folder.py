"""The folder that keeps a sweep.

sweep.yaml       the experiment and the block `sweep`, every field written out
trials.jsonl     a line per run, on the disk before the next one counts
trials.parquet   a row per run: values, status, what the metric came to
curves.parquet   the metrics of all runs, one under the other
best.yaml        the experiment of the best configuration
sweep.png        the figure
tune/            Ray Tune's own folder, where it was used
lock             held by the process that runs the sweep, with its number
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from raysim.core.plugin import ConfigError
from raysim.runtime.checkpoint import write
from tuning.records import Run

_WRITTEN = ("sweep.yaml", "trials.jsonl", "trials.parquet", "curves.parquet", "best.yaml", "sweep.png")


class Folder:
    """Reads and writes a sweep's folder.

    Args:
        path: where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._log = path, path / "trials.jsonl"

    @property
    def exists(self) -> bool:
        """Whether there is a sweep: a file sweep.yaml alone is somebody's own."""
        return (self.path / "sweep.yaml").exists() and self._log.exists()

    @property
    def empty(self) -> bool:
        """Whether nothing has come of the sweep that is here."""
        return self._log.stat().st_size == 0 and not (self.path / "tune").exists()

    @property
    def again(self) -> str:
        """The command that goes on with it."""
        return f"raysim sweep --resume {shlex.quote(str(self.path))}"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Inside, no other process runs this sweep.

        Raises:
            ConfigError: one does, or nothing can be written here.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise ConfigError(f"The sweep's folder {self.path} cannot be written: {error}.") from None
        try:
            self._take(lock)
            yield
        finally:
            os.close(lock)

    def _take(self, lock: int) -> None:
        """Lock an open file and write this process's number into it."""
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(lock, 20).decode()
            raise ConfigError(
                f"Another process is running the sweep in {self.path} (pid {pid}). Wait for it, or stop it."
            ) from None
        with contextlib.suppress(OSError):  # on a full disk the lock holds all the same
            os.truncate(lock, 0)
            os.write(lock, str(os.getpid()).encode())

    def require_sense(self, resume: bool, fresh: bool) -> None:
        """Refuse what cannot be meant, before anything is written.

        Args:
            resume: whether a sweep is to be taken up.
            fresh: whether it is to be removed first.

        Raises:
            ConfigError: both, nothing to go on with, or files that only look like a sweep's.
        """
        if resume and fresh:
            raise ConfigError("--resume goes on and --fresh starts anew: leave one of them out.")
        there = [self.path / name for name in _WRITTEN]
        foreign = [file.name for file in there if file.exists() and file.stat().st_size]
        if foreign and not self.exists:
            raise ConfigError(
                f"{self.path} holds no sweep, but files that one would write over: {', '.join(foreign)}. "
                "Choose another --folder."
            )
        if resume and not self.exists:
            raise ConfigError(
                f"There is no sweep in {self.path} to go on with. Leave out --resume to begin one."
            )

    def begin(self, text: str, resume: bool, fresh: bool) -> list[Run]:
        """Start a sweep here, or take up the one that is here.

        Args:
            text: its sweep.yaml.
            resume: go on with what is here.
            fresh: remove what is here.

        Returns:
            The runs that have ended.

        Raises:
            ConfigError: there is a sweep already, or another one, or nothing can be written.
        """
        if fresh:
            self.clear()
        if not self.exists or (self.empty and not resume):
            self._start(text)
            return []
        if not resume:
            raise ConfigError(
                f"{self.path} holds a sweep already. Go on with it: {self.again}; start anew with --fresh; or choose "
                "another --folder."
            )
        if self.text() != text:
            raise ConfigError(
                f"{self.path} holds another sweep than this one. Go on with what it holds: {self.again}; or choose "
                "another --folder."
            )
        self._repair()
        return self.runs()

    def _start(self, text: str) -> None:
        try:
            write(self._log, "")
            write(self.path / "sweep.yaml", text)
        except OSError as error:
            raise ConfigError(f"The sweep's folder {self.path} cannot be written: {error}.") from None

    def _repair(self) -> None:
        """Drop the end of a line that a crash cut short, so that the next one begins a line."""
        with open(self._log, "rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
            os.fsync(file.fileno())

    def clear(self) -> None:
        """Remove the sweep that is here, and nothing else."""
        if not self.exists:
            return
        shutil.rmtree(self.path / "tune", ignore_errors=True)
        for name in _WRITTEN:
            (self.path / name).unlink(missing_ok=True)

    def text(self) -> str:
        """sweep.yaml.

        Raises:
            ConfigError: there is no sweep here.
        """
        if not self.exists:
            lacks = "trials.jsonl" if (self.path / "sweep.yaml").exists() else "sweep.yaml"
            there = f"it has no {lacks}" if self.path.exists() else "it does not exist"
            raise ConfigError(f"{self.path} is not a sweep's folder: {there}.")
        return (self.path / "sweep.yaml").read_text(encoding="utf-8")

    def append(self, run: Run) -> None:
        """Keep a run; it is on the disk when this returns.

        Raises:
            ConfigError: the disk refused.
        """
        try:
            with open(self._log, "a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(run)) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ConfigError(
                f"{self._log} cannot be written: {error}. Make room; then: {self.again}"
            ) from None

    def runs(self) -> list[Run]:
        """Every run kept here, the last of each. Only reads: the sweep may be under way, its last line half written."""
        found: dict[tuple[int, int], Run] = {}
        for number, line in enumerate(self._log.read_bytes().split(b"\n")[:-1], 1):
            try:
                run = Run(**json.loads(line))
            except (ValueError, TypeError):
                warnings.warn(
                    f"Line {number} of {self._log} is damaged: its run counts as not run.", stacklevel=2
                )
                continue
            found.pop(run.key, None)
            found[run.key] = run
        return list(found.values())
