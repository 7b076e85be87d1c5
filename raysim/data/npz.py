"""A NumPy archive as a data set."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raysim.core.interfaces import Data, DataError, Dataset
from raysim.core.plugin import ConfigError, Count
from raysim.data.arrays import Arrays
from raysim.data.files import PathText, existing

_NEEDED = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True)
class Npz(Data):
    """One ``.npz`` file with the arrays x_train, y_train, x_test and y_test, and if need be groups.

    What the arrays may be, and what is made of them, is as in ``Arrays``: integer labels are learnt with
    cross-entropy, float targets with squared error, bytes are images or levels of grey.

    Args:
        path: the file, written with ``np.savez(path, x_train=..., y_train=..., x_test=..., y_test=...)``.
        normalize: standardise bytes by the training set's mean and standard deviation; floats are never
            touched.
        classes: number of classes if not the largest label plus 1; at least that.

    Paper: none. A file format.
    """

    path: PathText
    normalize: bool = True
    classes: Count | None = None

    def load(self) -> Dataset:
        """The arrays of the file."""
        file = existing(
            self.path, "Write one with np.savez(path, x_train=..., y_train=..., x_test=..., y_test=...)."
        )
        content = _content(file)
        missing = [name for name in _NEEDED if name not in content]
        if missing:
            found = ", ".join(content) or "nothing"
            raise DataError(
                f"{file.absolute()} lacks {', '.join(missing)}; it holds {found}. Rename its arrays."
            )
        try:
            arrays = Arrays(
                *(content[name] for name in _NEEDED),
                groups=content.get("groups"),
                classes=self.classes,
                normalize=self.normalize,
            )
        except ConfigError as error:
            raise DataError(f"{file.absolute()}: {error}") from None
        return arrays.load()


def _content(file: Path) -> dict[str, np.ndarray]:
    """All arrays of the archive; pickled objects are refused, for reading them would run code."""
    try:
        if not zipfile.is_zipfile(file):
            raise ValueError("no zip file")
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{file.absolute()} is not an .npz archive of plain arrays ({error}). Write it with np.savez."
        ) from error
