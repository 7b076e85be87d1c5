"""Storage behind a URL: what raysim asks of fsspec, and what a refusal means in plain words.

A folder is a path, or a URL such as ``s3://bucket/runs/x``: text with ``://`` in it. (``pathlib`` would make
``s3:/bucket`` of it, so URLs stay text.) Storage is asked for whole files only: object stores know neither appending
nor renaming, but what is put there is there whole or not at all.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from raysim.core.plugin import ConfigError

PAUSES = (0.5, 2.0, 5.0)
"""Seconds before each new attempt: storage across a network fails now and then, and works again."""

EXTRAS = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "abfs": "azure",
    "abfss": "azure",
    "az": "azure",
}
"""Protocols whose package one of raysim's extras brings. All of them are object stores: they need no directories."""

T = TypeVar("T")


class StorageError(OSError):
    """What a storage refuses."""


def is_url(folder: Any) -> bool:
    """Whether a folder is named by a URL."""
    return "://" in str(folder)


def located(folder: str | Path) -> Path | str:
    """A folder's path, or its URL as text without a slash at its end.

    Raises:
        ConfigError: a URL that went through ``pathlib``, which takes one slash away.
    """
    if is_url(folder):
        return str(folder).rstrip("/")
    mangled = re.match(r"([a-z][a-z0-9+]+):/(.*)", str(folder)) if isinstance(folder, Path) else None
    if mangled:
        protocol, rest = mangled.groups()
        raise ConfigError(
            f"The folder {folder} looks like a URL that pathlib has taken a slash from. Give it as text: "
            f"'{protocol}://{rest}'."
        )
    return Path(folder)


class Storage:
    """One folder behind a URL; every call raises StorageError where the storage refuses for good.

    Args:
        url: the folder.

    Raises:
        ConfigError: no such protocol, its package is not installed, or no way in.
    """

    def __init__(self, url: str) -> None:
        self.url = str(url).rstrip("/")
        self.fs, self.root = _opened(self.url)
        self.directories = self.url.split("://")[0] not in EXTRAS
        self.local = "file" in self.fs.protocol
        self._aside = f".{secrets.token_hex(4)}.tmp"  # ends names of files that are being written

    def check(self) -> None:
        """See that files can be written, read and deleted here.

        Raises:
            ConfigError: one of these is refused: which, why, and what to do.
        """
        name, words = f".raysim-{secrets.token_hex(4)}", b"raysim looks whether it can write here"
        steps: list[tuple[str, Callable[[], Any]]] = [
            ("cannot be written", lambda: self._piped(name, words)),
            ("cannot be read", lambda: self._same(name, words)),
            ("cannot be deleted from", lambda: self.fs.rm_file(self._path(name))),
        ]
        for what, step in steps:
            try:
                tried(step, PAUSES[:1])
            except StorageError as error:
                raise ConfigError(f"{self.url} {what}: {error}. {advice(error)}") from None

    def _same(self, name: str, words: bytes) -> None:
        if self.fs.cat_file(self._path(name)) != words:
            raise OSError("what is read is not what was written")

    def put(self, file: Path, name: str, pauses: tuple[float, ...] | None = None) -> None:
        """Store a local file, whole or not at all."""
        tried(lambda: self._put(file, name), pauses)

    def write(self, name: str, text: str) -> None:
        """Store a text, whole or not at all."""
        tried(lambda: self._piped(name, text.encode()))

    def _put(self, file: Path, name: str) -> None:
        with self._whole(name) as path:
            self.fs.put_file(str(file), path)

    def _piped(self, name: str, content: bytes) -> None:
        with self._whole(name) as path:
            self.fs.pipe_file(path, content)

    @contextlib.contextmanager
    def _whole(self, name: str) -> Any:
        """Where to put a file: in place, or where files grow as they are written, aside and renamed then."""
        path = self._path(name)
        if self.directories:
            self.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        yield path + self._aside if self.local else path
        if self.local:
            self.fs.mv(path + self._aside, path)

    def read(self, name: str) -> str | None:
        """The text of a file, None if there is none."""
        content = tried(lambda: self._or_none(lambda: self.fs.cat_file(self._path(name))))
        return None if content is None else content.decode()

    def get(self, name: str, file: Path) -> bool:
        """Fetch a file; False if there is none."""
        fetch = lambda: (self.fs.get_file(self._path(name), str(file)), True)
        there = bool(tried(lambda: self._or_none(fetch)))
        if not there:
            file.unlink(missing_ok=True)  # which some storages make before they look
        return there

    def names(self, name: str) -> dict[str, int]:
        """Files and folders in a folder here and their bytes; none if there is no such folder."""
        listed = tried(lambda: self._or_none(lambda: self.fs.ls(self._path(name), detail=True))) or []
        return {f["name"].rstrip("/").rpartition("/")[2]: f.get("size") or 0 for f in listed}

    def remove(self, name: str) -> None:
        """Delete a file or a folder, if it is there."""
        tried(lambda: self._or_none(lambda: self.fs.rm(self._path(name), recursive=True)))

    def _or_none(self, ask: Callable[[], T]) -> T | None:
        self.fs.invalidate_cache()  # others write here too
        try:
            return ask()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"


def _opened(url: str) -> tuple[Any, str]:
    import fsspec

    protocol = url.partition("://")[0]
    try:
        fs, root = fsspec.core.url_to_fs(url)
    except ImportError as error:
        extra = f"raysim[{EXTRAS[protocol]}]" if protocol in EXTRAS else None
        how = f"pip install '{extra}'" if extra else "see the message"
        raise ConfigError(
            f"{url}: the package for {protocol}:// is not installed ({error}). On every machine that runs this: {how}."
        ) from None
    except ValueError as error:
        raise ConfigError(
            f"{url}: there is no storage {protocol!r} ({error}). Use s3://, gs://, abfs:// or file://, another "
            "protocol that fsspec knows, or a path."
        ) from None
    except Exception as error:  # a package's own: no credentials, no network
        raise ConfigError(f"{url} cannot be opened: {reason(error)}. {advice(error)}") from None
    return fs, root.rstrip("/")


def tried(act: Callable[[], T], pauses: tuple[float, ...] | None = None) -> T:
    """What ``act`` returns, tried again where that may help.

    Args:
        act: a call of a file system. What it may raise depends on the package behind it.
        pauses: seconds before each new attempt.

    Raises:
        StorageError: it never worked.
    """
    for pause in (*(PAUSES if pauses is None else pauses), None):
        try:
            return act()
        except Exception as error:
            if pause is None or isinstance(error, (PermissionError, FileNotFoundError)):
                raise StorageError(reason(error)) from error
        time.sleep(pause)
    raise AssertionError


def reason(error: BaseException) -> str:
    """An error in one line."""
    text = " ".join(str(error).split()).rstrip(".")
    return f"{text} ({type(error).__name__})" if text else type(error).__name__


def advice(error: BaseException) -> str:
    """What to do about a refusal."""
    cause = error.__cause__ if isinstance(error, StorageError) else error
    if isinstance(cause, FileNotFoundError):
        return "Make the bucket first, or mind its spelling."
    if isinstance(cause, PermissionError) or "redential" in type(cause).__name__:
        return (
            "Let the account that runs this read, write and delete there; credentials come from the environment of the "
            "process that runs the experiment, on a cluster that of its nodes."
        )
    return "See whether the address is right and the storage can be reached from here."


def text(folder: Path | str, name: str) -> str | None:
    """The text of a file in a folder, local or behind a URL; None if there is none.

    Raises:
        ConfigError: the disk or the storage refuses.
    """
    try:
        return Storage(str(folder)).read(name) if is_url(folder) else (Path(folder) / name).read_text()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigError(f"{folder}/{name} cannot be read: {error}. {advice(error)}") from None
