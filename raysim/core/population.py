"""Numbers of their own for the rows of a stack: columns [C, 1] in the place of a plug-in's plain numbers.

Rows of one stack may belong to several experiments that differ in numbers alone: each row then has its own step size,
momentum or pull. Whatever works on a part of the stack cuts such columns to that part.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from raysim.core.plugin import Plugin

VARIED = "_varied"  # names of the fields of a plug-in that hold columns


def varied(plugin: Any, **fields: Any) -> Any:
    """A copy of a plug-in with columns (or plug-ins that hold some) in these fields, which are not checked again."""
    changed = object.__new__(
        type(plugin)
    )  # nothing else: what was derived from the plain numbers is not theirs
    for f in dataclasses.fields(plugin):
        object.__setattr__(changed, f.name, fields.get(f.name, getattr(plugin, f.name)))
    names = dict.fromkeys((*getattr(plugin, VARIED, ()), *fields))
    object.__setattr__(changed, VARIED, tuple(names))
    return changed


def cut(value: Any, a: int, b: int) -> Any:
    """What rows a..b-1 need of a value: their part of a column or of a varied plug-in, anything else as it is."""
    if isinstance(value, float):
        return value
    if isinstance(value, Tensor):
        return value[a:b] if value.dim() == 2 else value
    names = getattr(value, VARIED, ())
    if not names or not isinstance(value, Plugin):
        return value
    return varied(value, **{name: cut(getattr(value, name), a, b) for name in names})
