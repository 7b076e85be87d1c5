"""Any data on the unit sphere, where theory wants it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from raysim.core.interfaces import Data, Dataset
from raysim.core.losses import SquaredError
from raysim.core.plugin import ConfigError


@dataclass(frozen=True)
class OneHotError(SquaredError):
    """Half the squared distance to the label's unit vector, ½||out - e_y||².

    The labels stay integers, so that partitions can go by them and accuracy has a meaning: the largest output.

    Paper: none; least squares.
    """

    outputs_per_class = True

    def per_example(self, out: Tensor, y: Tensor) -> Tensor:
        """``out`` [B, classes], ``y`` [B] -> [B]."""
        one_hot = (y.unsqueeze(-1) == torch.arange(out.shape[-1], device=out.device)).to(out.dtype)
        return super().per_example(out, one_hot)

    def with_gradient(self, out_COB: Tensor, y_CB: Tensor) -> tuple[Tensor, Tensor]:
        """½||out - e_y||² and out - e_y."""
        label_C1B = y_CB.unsqueeze(1)
        grad_COB = out_COB.scatter_add(1, label_C1B, -torch.ones_like(label_C1B, dtype=out_COB.dtype))
        return 0.5 * grad_COB.square().sum(1), grad_COB

    def hits(self, out: Tensor, y: Tensor) -> Tensor:
        """1 where the largest output is the label."""
        return (out.argmax(-1) == y).to(torch.float32)


@dataclass(frozen=True)
class UnitSphere(Data):
    """Another data set with every input flattened and divided by its length, x / ||x||.

    Convergence theory of wide networks assumes ||x|| = 1 and regression. By default, labels are learnt as such: the
    loss is ½||f(x) - e_y||² for the unit vector e_y of label y, and accuracy goes by the largest output. Labels remain
    integers, so that partitions by label work, and natural owners (groups) remain too.

    Args:
        data: the data set; its augmentation, if any, must be off.
        targets: "one-hot" for the squared loss above; "labels" keeps the data's own targets and loss.

    Paper: none. It is the assumption of, among others, Deng, Kamani, Mahdavi, Local SGD Optimizes Overparameterized
    Neural Networks in Polynomial Time, 2022, https://arxiv.org/abs/2107.10868
    """

    data: Data
    targets: Literal["one-hot", "labels"] = "one-hot"

    def load(self) -> Dataset:
        """The same examples, on the sphere."""
        data, name = self.data.load(), type(self.data).__name__
        if data.augment is not None:
            raise ConfigError(
                f"UnitSphere flattens its inputs, which the random crops of {name} cannot work on and would take off "
                f"the sphere. Write {name}(augment=False)."
            )
        loss = data.loss
        if self.targets == "one-hot":
            loss = _one_hot(data, name)
        x_train, x_test = (_on_sphere(x, name) for x in (data.x_train, data.x_test))
        return dataclasses.replace(data, x_train=x_train, x_test=x_test, loss=loss, optimum=None)


def _one_hot(data: Dataset, name: str) -> OneHotError:
    """The squared loss on labels, or ConfigError where there are none."""
    y = data.y_train
    if y.ndim == 1 and y.dtype.kind in "iu":
        return OneHotError()
    raise ConfigError(
        f"UnitSphere.targets 'one-hot' needs one class label per example, but the targets of {name} are {y.dtype} of "
        f"shape {list(y.shape)}. Write targets='labels', which keeps the data's own targets and loss."
    )


def _on_sphere(x: np.ndarray, name: str) -> np.ndarray:
    """Flattened inputs of length 1, float32."""
    if x.dtype.kind != "f":
        raise ConfigError(
            f"UnitSphere needs inputs of real numbers, but those of {name} are tokens ({x.dtype}). Use data with "
            "images or vectors."
        )
    flat = x.reshape(len(x), -1).astype(np.float64)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    bad = np.flatnonzero(~((length > 0) & np.isfinite(length)))
    if len(bad):
        raise ConfigError(
            f"UnitSphere divides every input by its length, but {len(bad)} inputs of {name} have length "
            f"{length[bad[0], 0]:g} (example {bad[0]} first). Leave those examples out, or give the data a constant "
            "extra feature."
        )
    return (flat / length).astype(np.float32)
