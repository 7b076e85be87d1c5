"""torchvision: imported here and nowhere else, and only when asked for (the import takes a second).

raysim uses torchvision's data set readers and network definitions, which are plain Python, and none of its
compiled operators. Those come in a library that fits one build of torch: beside another build (a CPU torch,
say) it does not load, and then ``import torchvision`` itself stops, because it describes the shapes of
operators that nobody declared.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import warnings
from pathlib import Path
from types import ModuleType

import torch

_BOXES = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_OPERATORS = {"nms": "nms" + _BOXES, "qnms": "qnms" + _BOXES}
_declared: list[torch.library.Library] = []
"""Declarations vanish with their Library object, so it lives here as long as the process."""


def datasets() -> ModuleType:
    """``torchvision.datasets``."""
    return _part("torchvision.datasets")


def models() -> ModuleType:
    """``torchvision.models``."""
    return _part("torchvision.models")


def _part(name: str) -> ModuleType:
    if not hasattr(torch.ops.torchvision, "qnms"):
        _load_operators()
        _declare_missing()
    with warnings.catch_warnings():
        # The image codecs are part of the same compiled library: files are decoded with Pillow instead.
        warnings.filterwarnings("ignore", message="Failed to load")
        return importlib.import_module(name)


def _load_operators() -> None:
    """Load torchvision's compiled operators where they fit this torch.

    First of all: an operator declared by us and then again by the library would be an error.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    for library in Path(spec.origin).parent.glob("_C.*"):
        with contextlib.suppress(ImportError, OSError):
            torch.ops.load_library(str(library))


def _declare_missing() -> None:
    """Declare, without any implementation, the operators whose shapes torchvision describes on import."""
    for name, schema in _OPERATORS.items():
        if not hasattr(torch.ops.torchvision, name):
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define(schema)
            _declared.append(library)
