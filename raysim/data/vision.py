"""The usual image sets, read by torchvision's own classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np

from raysim.core import vision
from raysim.core.interfaces import Data, DataError, Dataset
from raysim.core.losses import CrossEntropy
from raysim.data.augment import crop_and_flip
from raysim.data.files import PathText
from raysim.data.images import channels_first, from_bytes

_UNREADABLE = (RuntimeError, OSError, ValueError, AssertionError, EOFError, UnpicklingError)


@dataclass(frozen=True)
class MNIST(Data):
    """Handwritten digits, 60,000 + 10,000 grey images of 28x28 pixels in 10 classes.

    Pixels are divided by 255 and standardised by the training set's own mean and standard deviation, computed
    from the files (about 0.1307 and 0.3081). Inputs are [n, 1, 28, 28].

    Args:
        root: folder that holds ``MNIST/raw/train-images-idx3-ubyte`` and its three companions.
        download: fetch missing files from the internet into ``root``.

    Paper: LeCun, Bottou, Bengio, Haffner, Gradient-Based Learning Applied to Document Recognition, 1998,
    https://doi.org/10.1109/5.726791
    """

    root: PathText = "data"
    download: bool = False

    def load(self) -> Dataset:
        """The images, read with ``torchvision.datasets.MNIST``."""
        return _images(self)


@dataclass(frozen=True)
class FashionMNIST(Data):
    """Pictures of clothes, 60,000 + 10,000 grey images of 28x28 pixels in 10 classes.

    Pixels are divided by 255 and standardised by the training set's own mean and standard deviation, computed
    from the files. Inputs are [n, 1, 28, 28].

    Args:
        root: folder that holds ``FashionMNIST/raw/train-images-idx3-ubyte`` and its three companions.
        download: fetch missing files from the internet into ``root``.

    Paper: Xiao, Rasul, Vollgraf, Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
    Algorithms, 2017, https://arxiv.org/abs/1708.07747
    """

    root: PathText = "data"
    download: bool = False

    def load(self) -> Dataset:
        """The images, read with ``torchvision.datasets.FashionMNIST``."""
        return _images(self)


@dataclass(frozen=True)
class CIFAR10(Data):
    """Small photographs, 50,000 + 10,000 colour images of 32x32 pixels in 10 classes.

    Pixels are divided by 255 and each channel is standardised by the training set's own mean and standard
    deviation, computed from the files. Inputs are [n, 3, 32, 32].

    Args:
        root: folder that holds ``cifar-10-batches-py``.
        download: fetch missing files from the internet into ``root``.
        augment: train on random crops (4 pixels of padding, zero after normalisation) and mirror images.

    Paper: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009,
    https://www.cs.toronto.edu/~kriz/cifar.html
    """

    root: PathText = "data"
    download: bool = False
    augment: bool = False

    def load(self) -> Dataset:
        """The images, read with ``torchvision.datasets.CIFAR10``."""
        return _images(self)


@dataclass(frozen=True)
class CIFAR100(Data):
    """Small photographs, 50,000 + 10,000 colour images of 32x32 pixels in 100 classes.

    Pixels are divided by 255 and each channel is standardised by the training set's own mean and standard
    deviation, computed from the files. Inputs are [n, 3, 32, 32].

    Args:
        root: folder that holds ``cifar-100-python``.
        download: fetch missing files from the internet into ``root``.
        augment: train on random crops (4 pixels of padding, zero after normalisation) and mirror images.

    Paper: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009,
    https://www.cs.toronto.edu/~kriz/cifar.html
    """

    root: PathText = "data"
    download: bool = False
    augment: bool = False

    def load(self) -> Dataset:
        """The images, read with ``torchvision.datasets.CIFAR100``."""
        return _images(self)


def _images(data: MNIST | FashionMNIST | CIFAR10 | CIFAR100) -> Dataset:
    """The set that torchvision has under the same name, as arrays."""
    train, test = (_read(data, train=train) for train in (True, False))
    raw = [channels_first(np.asarray(part.data)) for part in (train, test)]
    x_train, x_test = from_bytes(raw[0], raw[1], normalize=True)
    return Dataset(
        x_train=x_train,
        y_train=np.asarray(train.targets, np.int64),
        x_test=x_test,
        y_test=np.asarray(test.targets, np.int64),
        loss=CrossEntropy(),
        outputs=len(train.classes),
        augment=crop_and_flip if getattr(data, "augment", False) else None,
    )


def _read(data: MNIST | FashionMNIST | CIFAR10 | CIFAR100, *, train: bool) -> Any:
    """The object of torchvision, or DataError."""
    name = type(data).__name__
    kind = getattr(vision.datasets(), name)
    root = Path(data.root).expanduser()
    try:
        return kind(root, train=train, download=data.download)
    except _UNREADABLE as error:
        raise DataError(_explained(name, root, _files(kind, root), data.download, error)) from error


def _files(kind: Any, root: Path) -> list[Path]:
    """What torchvision looks for under ``root``."""
    if hasattr(kind, "base_folder"):
        parts = [name for name, _ in kind.train_list + kind.test_list] + [kind.meta["filename"]]
        return [root / kind.base_folder / name for name in parts]
    return [root / kind.__name__ / "raw" / name.removesuffix(".gz") for name, _ in kind.resources]


def _explained(name: str, root: Path, files: list[Path], download: bool, error: Exception) -> str:
    """Which files were looked for, what is wrong with them and how to get them."""
    missing = [file.name for file in files if not file.is_file()]
    looked = f"{name} needs {', '.join(file.name for file in files)} in {files[0].parent.absolute()}"
    if download:
        return f"{looked}; downloading failed: {error}"
    if missing:
        return (
            f"{looked}; missing: {', '.join(missing)}. Put them there, name another folder as root "
            f"(now {str(root)!r}), or set download: true to fetch them."
        )
    return (
        f"{looked}; they are there but cannot be read ({error}). Delete that folder and set download: true "
        "to fetch them again."
    )
