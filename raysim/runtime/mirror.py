"""A run's working folder brought to storage behind a URL, file by file as they are written.

A checkpoint's files go first and its manifest last, so that there too a checkpoint is whole or not there. The manifest
names the files with their bytes; metrics up to its round are there before it. Between checkpoints metrics may come
some seconds late; a refusal of those is a warning, for they are safe on the disk.

Before each checkpoint one small file is read, to see that no other process has taken the run over (see claim.py);
also before what is stored more than some seconds later.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from raysim.core.plugin import ConfigError
from raysim.runtime.checkpoint import KEEP, Checkpoint, CheckpointError, tidy
from raysim.runtime.claim import Claim, Superseded
from raysim.runtime.storage import Storage, StorageError, advice

SHARE = 0.1  # of a run's time that its metrics may take to upload
QUICK, PAUSE = 0.02, 5.0  # seconds: an upload slower than the one waits so long before the next
OURS = 5.0  # seconds after a look at whose the run is that metrics, and further files of a checkpoint, rely on it


class Mirror:
    """Keeps a URL as a local folder is.

    Args:
        url: where to.
    """

    def __init__(self, url: str) -> None:
        self.storage = Storage(url)
        name = re.sub(r"[^\w.-]", "_", url.rstrip("/").rpartition("/")[2])
        self.path = Path(tempfile.mkdtemp(prefix=f"raysim-{name}-"))
        self.behind: set[str] = set()  # files that the storage has not got as they are here
        self.refused: dict[str, int] = {}  # how often it refused them, one time after the other
        self.whole: list[int] = []  # rounds of checkpoints there
        self.claim = Claim(url, self.storage)
        self._due = 0.0

    # ---- there -----------------------------------------------------------------------------------------------

    def file(
        self, name: str, pauses: tuple[float, ...] | None = None, patience: int = 1, age: float = 0.0
    ) -> None:
        """Store one file as it is now.

        Args:
            name: the file, in the folder.
            pauses: seconds before each new attempt.
            patience: so many refusals in a row are a warning, one until it works again.
            age: seconds for which the last look at whose the folder is will do.

        Raises:
            Superseded: the folder is another process's now.
        """
        self.behind.add(name)
        try:
            self.claim.require(age)
            self.storage.put(self.path / name, name, pauses)
        except StorageError as error:
            self.refused[name] = self.refused.get(name, 0) + 1
            if self.refused[name] == patience:
                warnings.warn(
                    f"{self.storage.url} refuses {name}: {error}. The run goes on; what it writes is in {self.path} on "
                    f"{os.uname().nodename}.",
                    stacklevel=2,
                )
        else:
            self.behind.discard(name)
            self.refused.pop(name, None)

    def metrics(self) -> None:
        """Store the metrics, unless they were a moment ago and that took long."""
        self.behind.add("metrics.jsonl")
        begin = time.monotonic()
        if begin < self._due:
            return
        self.file("metrics.jsonl", (), patience=2, age=OURS)
        now = time.monotonic()
        slow = now - begin > QUICK or "metrics.jsonl" in self.refused
        self._due = now + max((now - begin) / SHARE, PAUSE if slow else 0.0)

    def checkpoint(self, last: Checkpoint) -> None:
        """Store a checkpoint and drop the oldest.

        Raises:
            CheckpointError: refused; with what is left, and where.
            Superseded: the folder is another process's now.
        """
        name = f"checkpoints/{last.folder.name}"
        try:
            self.claim.require()
            if "manifest.json" in self.storage.names(name):
                self.storage.remove(f"{name}/manifest.json")
            self.storage.put(self.path / "metrics.jsonl", "metrics.jsonl")
            self.behind.discard("metrics.jsonl")
            for file in [*sorted(last.manifest["files"]), "manifest.json"]:
                self.claim.require(OURS)
                self.storage.put(last.folder / file, f"{name}/{file}")
        except StorageError as error:
            self.behind.add(name)
            with contextlib.suppress(StorageError):
                self.claim.require()  # whoever takes a folder over tidies it up
            raise CheckpointError(self._lost(last.manifest["round"], name, error)) from None
        self.whole = [*self.whole, last.manifest["round"]][-KEEP:]
        self._drop(last.manifest["round"])

    def _lost(self, round: int, name: str, error: StorageError) -> str:
        there = f"that of round {self.whole[-1]}" if self.whole else "none"
        return (
            f"The checkpoint of round {round} could not be written to {self.storage.url}/{name}: {error}. It is intact "
            f"in {self.path} on {os.uname().nodename}; at {self.storage.url} {there} is. When the storage takes files "
            f"again, go on from there: raysim resume {self.storage.url}; or on that machine alone: "
            f"raysim resume {self.path}"
        )

    def _drop(self, round: int) -> None:
        """Delete what is older than the last ones; a storage that keeps everything is let be, with a word."""
        try:
            for name in self.storage.names("checkpoints"):
                if name.isdigit() and int(name) < round and int(name) not in self.whole:
                    self.storage.remove(f"checkpoints/{name}/manifest.json")
                    self.storage.remove(f"checkpoints/{name}")
        except StorageError as error:
            warnings.warn(f"Old checkpoints at {self.storage.url} cannot be deleted: {error}.", stacklevel=2)

    # ---- and back --------------------------------------------------------------------------------------------

    def open(self) -> None:
        """See that the storage takes files, make it this process's, and clear away what others had half written.

        Raises:
            ConfigError: the storage refuses.
        """
        self.storage.check()
        try:
            if self.storage.local:
                tidy(Path(self.storage.root))
            self.claim.take()
        except OSError as error:
            raise ConfigError(f"{self.storage.url} cannot be written: {error}. {advice(error)}") from None

    def fetch(self, checkpoints: bool) -> None:
        """Bring the run's files here, with its newest whole checkpoint or without any.

        Raises:
            CheckpointError: what is there cannot be read.
        """
        try:
            for name in ("experiment.yaml", *(("run.json", "metrics.jsonl") if checkpoints else ())):
                self.storage.get(name, self.path / name)
            if checkpoints:
                self._fetch_newest()
        except StorageError as error:
            raise CheckpointError(f"The run at {self.storage.url} cannot be read: {error}.") from None

    def _fetch_newest(self) -> None:
        for name, manifest in whole(self.storage):
            aside = self.path / "checkpoints" / f"{name}.tmp"
            aside.mkdir(parents=True)
            files = [*manifest.get("files", _files(manifest)), "manifest.json"]
            if all(self.storage.get(f"checkpoints/{name}/{f}", aside / f) for f in files):
                aside.rename(aside.with_suffix(""))
                self.whole = [manifest["round"]]
                return
            shutil.rmtree(aside)

    def close(self) -> None:
        """Bring what is late; the working folder goes if the storage has all of it, or another process the run."""
        with contextlib.suppress(Superseded):
            for name in [n for n in self.behind if (self.path / n).is_file() and not self.claim.lost]:
                self.file(name, ())
        if self.claim.lost or not self.behind:
            shutil.rmtree(self.path, ignore_errors=True)


def whole(storage: Storage) -> Any:
    """Name and manifest of each checkpoint there that is whole, the newest first."""
    for name in sorted((n for n in storage.names("checkpoints") if n.isdigit()), key=int, reverse=True):
        try:
            manifest = json.loads(storage.read(f"checkpoints/{name}/manifest.json") or "")
        except json.JSONDecodeError:
            continue
        sizes, expected = storage.names(f"checkpoints/{name}"), manifest.get("files", {})
        if all(sizes.get(file) == size for file, size in expected.items()):
            yield name, manifest


def _files(manifest: dict[str, Any]) -> list[str]:
    """What a checkpoint consists of whose manifest does not say."""
    return ["server.safetensors", *(f"rows-{i}.safetensors" for i in range(manifest["row_files"]))]


def begin(url: str, text: str) -> None:
    """Write the experiment to storage; an older run there is refused.

    Raises:
        ConfigError: a run is there, or the storage refuses.
    """
    storage = Storage(url)
    try:
        there = storage.read("run.json") is not None or any(n.isdigit() for n in storage.names("checkpoints"))
    except StorageError:
        there = False  # the check below says what it refuses
    if there:
        raise ConfigError(
            f"{url} holds a run already. Continue it with: raysim resume {url}; or choose another."
        )
    storage.check()
    storage.write("experiment.yaml", text)
