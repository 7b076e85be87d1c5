"""Checkpoints: safetensors and a JSON manifest, written aside and renamed, so that one is whole or not there at all.

checkpoints/000050/manifest.json         round, counters, form, files and their bytes
                   server.safetensors    model and the rule's state
                   rows-0.safetensors    what clients keep, one file per host, with their ids
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, load_file, save as packed, save_file
from safetensors.torch import load_file as load_tensors, save_file as save_tensors

from raysim.core.rows import RowStore
from raysim.core.server import Server

KEEP = 2  # the last one and the one before, in case the last one's disk lied


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written or read, and what is left."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk.

    Args:
        folder: where it is.
        manifest: what its manifest says.
    """

    folder: Path
    manifest: dict[str, Any]

    def server(self) -> Server:
        """The server at that round."""
        try:
            tensors = load_tensors(self.folder / "server.safetensors")
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{self.folder} cannot be read ({error}). Delete it to resume from the one before."
            ) from None
        x_P = tensors.pop("x_P")
        return Server(x_P, self.manifest["round"], tensors)

    def rows(self) -> list[Path]:
        """Files of the clients' rows."""
        return [self.folder / f"rows-{i}.safetensors" for i in range(self.manifest["row_files"])]


def save(
    root: Path,
    server: Server,
    save_rows: Callable[[Path], int],
    facts: dict[str, Any],
    place: Path | str | None = None,
    mine: Callable[[], None] = lambda: None,
) -> Checkpoint:
    """Write a checkpoint under ``root/checkpoints`` and drop the oldest.

    Args:
        root: the run's folder.
        server: model and rule state.
        save_rows: writes the clients' rows into a folder and returns the number of files.
        facts: whatever else the manifest is to hold.
        place: the run's folder as the user knows it, where it is another.
        mine: called before the checkpoint is put where it belongs; raises if this process may write there no more.

    Raises:
        CheckpointError: the disk refused; checkpoints written before are untouched.
    """
    final = root / "checkpoints" / f"{server.round:06d}"
    aside = final.with_name(f"{final.name}.{secrets.token_hex(4)}.tmp")
    try:
        aside.mkdir(parents=True)
        tensors = {"x_P": server.x_P, **server.state}
        save_tensors(
            {n: t.detach().contiguous().clone() for n, t in tensors.items()}, aside / "server.safetensors"
        )
        manifest = {"round": server.round, "row_files": save_rows(aside), **facts}
        manifest["files"] = {file.name: file.stat().st_size for file in sorted(aside.iterdir())}
        write(aside / "manifest.json", json.dumps(manifest, indent=1))
        for file in aside.iterdir():
            _to_disk(file)
        _to_disk(aside)
        mine()
        shutil.rmtree(final, ignore_errors=True)
        os.replace(aside, final)
        _to_disk(final.parent)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            mine()  # whoever takes a folder over tidies it up
        raise CheckpointError(
            f"The checkpoint of round {server.round} could not be written to {final}: {error}. {intact(root)} "
            f"{_advice(error, server)}, then: raysim resume {place or root}"
        ) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    for old in _folders(root)[KEEP:]:
        shutil.rmtree(old, ignore_errors=True)
    return Checkpoint(final, manifest)


def _advice(error: Exception, server: Server) -> str:
    if not any(words in str(error).lower() for words in ("no space", "quota")):
        return "See to it that the folder can be written"
    return f"Make room (this one needs about {_megabytes(server)} MB and the clients' rows)"


def write(file: Path, text: str) -> None:
    """A small text file, whole or not at all."""
    aside = file.with_name(f"{file.name}.{secrets.token_hex(4)}.tmp")
    try:
        aside.write_text(text)
        os.replace(aside, file)
    finally:
        aside.unlink(missing_ok=True)


def tidy(root: Path) -> None:
    """Clear away what processes that were killed had half written in a run's folder."""
    for aside in [*root.glob("*.tmp"), *(root / "checkpoints").glob("*.tmp")]:
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _megabytes(server: Server) -> int:
    return 1 + sum(t.numel() * 4 for t in [server.x_P, *server.state.values()]) // 1_000_000


def latest(root: Path) -> Checkpoint | None:
    """The newest whole checkpoint of a run, or None."""
    for folder in _folders(root):
        try:
            manifest = json.loads((folder / "manifest.json").read_text())
            sizes = {name: (folder / name).stat().st_size for name in manifest.get("files", {})}
        except (OSError, json.JSONDecodeError):
            continue
        if sizes == manifest.get("files", {}):
            return Checkpoint(folder, manifest)
    return None


def intact(root: Path) -> str:
    """What a run can go on from, in words."""
    last = latest(root)
    return (
        f"The checkpoint of round {last.manifest['round']} is intact."
        if last
        else "There is no older checkpoint."
    )


def _folders(root: Path) -> list[Path]:
    """Folders of checkpoints, the newest first."""
    named = [folder for folder in (root / "checkpoints").glob("*") if folder.name.isdigit()]
    return sorted(named, key=lambda folder: int(folder.name), reverse=True)


def rows_packed(store: RowStore) -> bytes:
    """All rows of a host as the bytes of a file; none if it keeps none."""
    return packed(_rows(store)) if store.tensors else b""


def save_rows(store: RowStore, file: Path) -> int:
    """All rows of a host into one file; 0 if it keeps none."""
    if not store.tensors:
        return 0
    save_file(_rows(store), file)
    return 1


def _rows(store: RowStore) -> dict[str, np.ndarray]:
    ids = np.array(sorted(store.slot), np.int64)
    tensors = {f"row.{n}": v for n, v in store.peek(ids).items()}
    fills = {f"fill.{n}": v.cpu().numpy() for n, v in store.fills.items()}
    return {"ids": ids, **tensors, **fills}


def load_rows(store: RowStore, files: Sequence[Path | bytes]) -> np.ndarray:
    """Replace a host's rows by those of checkpoint files, or their bytes; returns their clients."""
    store.slot, store.tensors, store.fills = {}, {}, {}
    seen = [np.empty(0, np.int64)]
    for file in files:
        try:
            tensors = load(file) if isinstance(file, bytes) else load_file(file)
        except (OSError, SafetensorError) as error:
            name = "another node's checkpoint" if isinstance(file, bytes) else file
            raise CheckpointError(f"The clients' rows in {name} cannot be read: {error}.") from None
        cut = lambda prefix: {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}  # noqa: B023
        store.take(tensors["ids"], cut("row."), cut("fill."))
        seen.append(tensors["ids"])
    return np.concatenate(seen)
