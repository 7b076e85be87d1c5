"""Paths as fields, and what to say when nothing is there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from raysim.core.interfaces import DataError


def _text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


PathText = Annotated[str, BeforeValidator(_text)]
"""A path as text, which YAML can hold; a ``pathlib.Path`` becomes its text. ``~`` is the home folder."""


def existing(path: str, advice: str) -> Path:
    """The file at ``path``; DataError with the full path and ``advice`` when there is none."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"No file at {file.absolute()} (from the path {path!r}). {advice}")
    return file
