"""Values that experiments of one population share or not: merged into what the rows of their stack compute with.

What all of them have alike stays as it is. Numbers that differ become a column, vectors that differ become rows, and a
plug-in with different numbers becomes a copy of itself that holds columns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raysim.core.cohort import Table
from raysim.core.plugin import Plugin
from raysim.core.population import varied


class NotStackable(Exception):
    """Experiments that cannot train as one stack: why not."""


class PerTrial:
    """One value for every trial, [T, width], handed out as rows of a stack.

    Args:
        value_T: the values: numbers (width 1) or vectors of one length.
        device: where rows are needed.
    """

    def __init__(self, value_T: Tensor, device: torch.device) -> None:
        self.value_T = value_T.to(device)
        self._rows: dict[tuple[int, int], Tensor] = {}

    def rows(self, first: int, last: int, clients: int) -> Tensor:
        """Those of trials first..last-1, over and over for so many clients: [clients (last - first), width]."""
        need, key = clients * (last - first), (first, last)
        if key not in self._rows or len(self._rows[key]) < need:
            self._rows[key] = self.value_T[first:last].repeat(clients, 1)
        return self._rows[key][:need]


@dataclasses.dataclass
class Varied:
    """A plug-in of which some fields differ from trial to trial.

    Args:
        plugin: the first trial's.
        fields: what differs, merged.
    """

    plugin: Plugin
    fields: dict[str, Any]

    def rows(self, first: int, last: int, clients: int) -> Any:
        """The plug-in with columns for the rows of trials first..last-1 of so many clients."""
        return varied(self.plugin, **{n: v.rows(first, last, clients) for n, v in self.fields.items()})


class Tables:
    """Every trial's table of rows, of which each client receives one.

    Args:
        tables: the tables, with as many rows each.
        device: where rows are needed.
    """

    def __init__(self, tables: Sequence[Table], device: torch.device) -> None:
        self.rows_TGP = torch.stack([t.rows_GP for t in tables]).to(device)
        self.group_TN = np.stack([t.group_N for t in tables])

    def rows(self, first: int, last: int, clients: int) -> Table:
        """The tables of trials first..last-1 as one."""
        groups: Any = Groups(self.group_TN[first:last], self.rows_TGP.shape[1])
        return Table(self.rows_TGP[first:last].flatten(0, 1), groups)


@dataclasses.dataclass
class Groups:
    """Which row of the tables of several trials, one below the other, each row of a stack gets.

    Args:
        group_TN: by trial and client.
        number: of rows in a table.
    """

    group_TN: np.ndarray
    number: int

    def __getitem__(self, ids_C: np.ndarray) -> np.ndarray:
        """By the clients of a stack, client by client, trial by trial."""
        trial_C = np.arange(len(ids_C)) % len(self.group_TN)
        return self.group_TN[trial_C, ids_C] + trial_C * self.number


def rows_of(value: Any, first: int, last: int, clients: int) -> Any:
    """A merged value as the rows of trials first..last-1 of so many clients need it."""
    return value.rows(first, last, clients) if isinstance(value, (PerTrial, Varied, Tables)) else value


def merged(values: Sequence[Any], device: torch.device, what: str = "a value") -> Any:
    """The trials' values as one: the value itself where they are all alike, else what ``rows_of`` takes rows of.

    Raises:
        NotStackable: they differ in something that no row can hold.
    """
    first = values[0]
    if all(same(first, v) for v in values[1:]):
        return first
    if any(type(v) is not type(first) for v in values):
        raise NotStackable(f"{what} is of different kinds ({_kinds(values)})")
    if isinstance(first, float):
        return PerTrial(torch.tensor(values, dtype=torch.float32).unsqueeze(1), device)
    if isinstance(first, Tensor):
        return _vectors(values, device, what)
    if isinstance(first, Table) and all(t.rows_GP.shape == first.rows_GP.shape for t in values):
        return Tables(values, device)
    if isinstance(first, Plugin):
        return _plugins(values, device, what)
    raise NotStackable(f"{what} differs, and is no number ({_kinds(values)})")


def _vectors(values: Sequence[Tensor], device: torch.device, what: str) -> PerTrial:
    first = values[0]
    if any(v.shape != first.shape or v.dtype != first.dtype for v in values) or first.dim() > 1:
        raise NotStackable(f"{what} differs in a tensor of shape {tuple(first.shape)}")
    if not first.dtype.is_floating_point:
        raise NotStackable(f"{what} differs in a tensor of {first.dtype}")
    return PerTrial(torch.stack([v.reshape(-1) for v in values]), device)


def _plugins(values: Sequence[Plugin], device: torch.device, what: str) -> Varied:
    columns = {
        name: merged([getattr(v, name) for v in values], device, f"{what}.{name}")
        for name in differing(values)
    }
    return Varied(values[0], columns)


def differing(plugins: Sequence[Any]) -> list[str]:
    """Names of the fields in which plug-ins of one class are not all alike."""
    names = [f.name for f in dataclasses.fields(plugins[0])]
    return [n for n in names if any(not same(getattr(plugins[0], n), getattr(p, n)) for p in plugins[1:])]


def same(a: Any, b: Any) -> bool:
    """Whether two values are alike, whatever they are made of; what cannot be compared is not."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    compare = _COMPARE.get(type(a))
    if compare is not None:
        return compare(a, b)
    if dataclasses.is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    try:
        return bool(a == b)
    except (TypeError, ValueError, RuntimeError):
        return False


_COMPARE: dict[type, Callable[[Any, Any], bool]] = {
    Tensor: lambda a, b: a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b),
    np.ndarray: lambda a, b: a.dtype == b.dtype and np.array_equal(a, b),
    tuple: lambda a, b: len(a) == len(b) and all(map(same, a, b)),
    list: lambda a, b: len(a) == len(b) and all(map(same, a, b)),
    dict: lambda a, b: a.keys() == b.keys() and all(same(a[k], b[k]) for k in a),
}


def _kinds(values: Sequence[Any]) -> str:
    return ", ".join(sorted({type(v).__name__ for v in values}))
