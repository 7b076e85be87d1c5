"""Arrays that are already in memory as a data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch

from raysim.core.interfaces import Data, Dataset, Loss
from raysim.core.losses import CrossEntropy, SquaredError
from raysim.core.plugin import ConfigError, Count, Opaque
from raysim.data.images import channels_first, from_bytes


@dataclass(frozen=True, eq=False)
class Arrays(Data):
    """Your own data, as numpy arrays or torch tensors.

    What is learnt follows from the targets: integers are labels (cross-entropy), floats are targets (half the
    squared error; [n] is read as [n, 1]), and integers of the same shape [n, length] as integer inputs are
    next tokens.

    Inputs: floats are taken as they are, as float32. uint8 are bytes: divided by 255 and, with ``normalize``,
    standardised by the training set's mean and standard deviation (per channel of images). All other integers
    are tokens, so convert whole-number features to float first. Three axes, [n, height, width], become [n, 1,
    height, width]; bytes [n, height, width, channels] with 1, 3 or 4 channels become channels first.

    Args:
        x_train: inputs, [n, ...], float, uint8 or integer tokens.
        y_train: labels [n], next tokens [n, length], or targets [n] or [n, outputs].
        x_test: as x_train, never trained on.
        y_test: as y_train.
        groups: natural owner of each training example, [n], integers or words; None for none.
        classes: number of classes (or tokens) if not the largest label plus 1; at least that.
        loss: what to measure with, in place of cross-entropy or squared error.
        normalize: standardise uint8 inputs; floats are never touched.

    Paper: none. The data are yours.
    """

    x_train: Annotated[Any, Opaque]
    y_train: Annotated[Any, Opaque]
    x_test: Annotated[Any, Opaque]
    y_test: Annotated[Any, Opaque]
    groups: Annotated[Any, Opaque] = None
    classes: Count | None = None
    loss: Loss | None = None
    normalize: bool = True

    def check(self) -> None:
        """Refuse what no training could use, with its name."""
        for name in ("x_train", "y_train", "x_test", "y_test"):
            object.__setattr__(self, name, _array(name, getattr(self, name)))
        for part in ("train", "test"):
            _check_lengths(part, getattr(self, f"x_{part}"), getattr(self, f"y_{part}"))
        _check_alike("x", self.x_train, self.x_test, bytes_differ=True)
        _check_alike("y", self.y_train, self.y_test, bytes_differ=False)
        if self.groups is not None:
            object.__setattr__(self, "groups", _owners(self.groups, len(self.x_train)))
        if self.y_train.dtype.kind == "f":
            _check_targets(self)
        else:
            _check_labels(self)

    def load(self) -> Dataset:
        """The arrays, as a model takes them."""
        x_train, x_test = self._inputs()
        if self.y_train.dtype.kind == "f":
            y_train, y_test = (y.astype(np.float32).reshape(len(y), -1) for y in (self.y_train, self.y_test))
            outputs, loss = y_train.shape[1], self.loss or SquaredError()
        else:
            y_train, y_test = (y.astype(np.int64) for y in (self.y_train, self.y_test))
            outputs, loss = self.classes or _needed_classes(self), self.loss or CrossEntropy()
        return Dataset(x_train, y_train, x_test, y_test, loss=loss, outputs=outputs, groups=self.groups)

    def _inputs(self) -> tuple[np.ndarray, np.ndarray]:
        x_train, x_test = self.x_train, self.x_test
        if x_train.dtype.kind != "f" and (x_train.dtype != np.uint8 or _next_tokens(self)):
            return x_train.astype(np.int64), x_test.astype(np.int64)
        x_train, x_test = channels_first(x_train), channels_first(x_test)
        if x_train.dtype == np.uint8:
            return from_bytes(x_train, x_test, normalize=self.normalize)
        return np.ascontiguousarray(x_train, np.float32), np.ascontiguousarray(x_test, np.float32)


def _array(name: str, value: Any) -> np.ndarray:
    """A numpy array of finite numbers."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    if not isinstance(value, np.ndarray):
        raise ConfigError(
            f"Arrays.{name} must be a numpy array or a torch tensor, got {type(value).__name__}. Use "
            "np.asarray on it."
        )
    if value.dtype.kind not in "fiub":
        raise ConfigError(
            f"Arrays.{name} must hold floats or integers, got dtype {value.dtype}. Convert it: words become "
            "numbers with np.unique(x, return_inverse=True)[1]."
        )
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        bad = int(value.size - np.isfinite(value).sum())
        raise ConfigError(
            f"Arrays.{name} has {bad} values that are NaN or infinite. Replace or drop those examples."
        )
    return value


def _check_lengths(part: str, x: np.ndarray, y: np.ndarray) -> None:
    if x.ndim < 2 or not x.size:
        raise ConfigError(
            f"Arrays.x_{part} must be [examples, ...] with at least one example and two axes, got shape "
            f"{x.shape}. A single feature is [n, 1]."
        )
    if y.ndim not in (1, 2) or len(y) != len(x):
        raise ConfigError(
            f"Arrays.y_{part} must have one row for each of the {len(x)} examples of x_{part}, as [n] or [n, "
            f"outputs], got shape {y.shape}."
        )


def _check_alike(axis: str, train: np.ndarray, test: np.ndarray, *, bytes_differ: bool) -> None:
    """Training and test examples have one shape and one kind of number."""
    if train.shape[1:] != test.shape[1:]:
        raise ConfigError(
            f"Arrays.{axis}_train and {axis}_test must have examples of one shape, got {train.shape[1:]} and "
            f"{test.shape[1:]}."
        )
    floats = [array.dtype.kind == "f" for array in (train, test)]
    pixels = [array.dtype == np.uint8 and bytes_differ for array in (train, test)]
    if floats[0] != floats[1] or pixels[0] != pixels[1]:
        raise ConfigError(
            f"Arrays.{axis}_train and {axis}_test must hold one kind of number, got {train.dtype} and "
            f"{test.dtype}. Convert one with astype."
        )


def _check_targets(arrays: Arrays) -> None:
    if arrays.loss is not None and arrays.loss.outputs_per_class:
        raise ConfigError(
            f"Arrays.loss is {type(arrays.loss).__name__}, which needs integer labels, but y_train holds "
            f"{arrays.y_train.dtype}. Convert labels with y.astype(np.int64)."
        )
    if arrays.classes is not None:
        raise ConfigError(
            f"Arrays.classes is {arrays.classes}, but y_train holds {arrays.y_train.dtype}, so nothing is "
            "classified. Convert labels with y.astype(np.int64), or leave classes out."
        )


def _check_labels(arrays: Arrays) -> None:
    if arrays.loss is not None and not arrays.loss.outputs_per_class:
        raise ConfigError(
            f"Arrays.loss is {type(arrays.loss).__name__}, which needs float targets, but y_train holds "
            f"{arrays.y_train.dtype}. Convert targets with y.astype(np.float32)."
        )
    shapes_fit = arrays.x_train.shape[1:] == arrays.y_train.shape[1:]
    if _next_tokens(arrays) and (arrays.x_train.dtype.kind == "f" or not shapes_fit):
        raise ConfigError(
            "Arrays.y_train holds integers in two axes, which means next tokens and needs integer x_train of "
            f"the same shape, got x_train {arrays.x_train.dtype} {arrays.x_train.shape} and y_train "
            f"{arrays.y_train.shape}. Labels are [n]; float targets are [n, outputs]."
        )
    lowest = min(int(array.min()) for array in _counted(arrays))
    if lowest < 0:
        raise ConfigError(f"Arrays: labels and tokens count from 0, got {lowest}. Shift or renumber them.")
    if arrays.classes is not None and arrays.classes < _needed_classes(arrays):
        raise ConfigError(
            f"Arrays.classes is {arrays.classes}, but the largest label is {_needed_classes(arrays) - 1}. It "
            "must be larger than every label."
        )


def _next_tokens(arrays: Arrays) -> bool:
    """Whether the targets are sequences of tokens."""
    return arrays.y_train.ndim == 2 and arrays.y_train.dtype.kind != "f"


def _counted(arrays: Arrays) -> list[np.ndarray]:
    """What is numbered by the model's outputs: labels, or the tokens that go in and come out."""
    tokens = [arrays.x_train, arrays.x_test] if _next_tokens(arrays) else []
    return [arrays.y_train, arrays.y_test, *tokens]


def _needed_classes(arrays: Arrays) -> int:
    """Largest label or token plus 1."""
    return max(int(array.max()) for array in _counted(arrays)) + 1


def _owners(groups: Any, examples: int) -> np.ndarray:
    """Owners as 0, 1, ... in the order of their sorted names, [n] int64."""
    groups = np.asarray(groups)
    if groups.shape != (examples,) or groups.dtype.kind not in "iuUS":
        raise ConfigError(
            f"Arrays.groups must name the owner of each of the {examples} training examples by an integer or "
            f"a word, got {groups.dtype} of shape {groups.shape}."
        )
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)
