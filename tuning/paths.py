"""Dotted paths into an experiment: ``local.optimizer.lr``, ``cohort``, ``uplink.0.share``."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import typing
from typing import Any, TypeVar

from raysim import spec
from raysim.core.plugin import ConfigError, Plugin, field_types, shown

P = TypeVar("P", bound=Plugin)


def changed(plugin: P, changes: dict[str, Any], where: str = "") -> P:
    """A copy with other values at some dotted paths, checked once all of them stand.

    A value is what YAML holds (a mapping with a ``name`` is a plug-in, one without changes the plug-in that is there)
    or a plug-in itself. A path may go through a list by number.

    Args:
        plugin: an experiment, or a part of one.
        changes: values by path.
        where: path of ``plugin``, for messages.

    Raises:
        ConfigError: no such field, or a value that it refuses.
    """
    hints, fields = field_types(type(plugin)), {}
    for head, deeper in _by_head(changes).items():
        place = f"{where}.{head}" if where else head
        if head not in hints:
            raise ConfigError(f"{where or 'experiment'}: {type(plugin).__name__} has no field {head!r}.")
        fields[head] = _replaced(getattr(plugin, head), hints[head], deeper, place)
    try:
        return dataclasses.replace(plugin, **fields)  # type: ignore[type-var]  # every plug-in is a dataclass
    except ConfigError as error:
        raise ConfigError(f"{where or 'experiment'}: {error}") from None


def _by_head(changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Changes by the first part of their paths; "" stands for the whole of it."""
    heads: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        head, _, rest = path.partition(".")
        heads.setdefault(head, {})[rest] = value
    return heads


def _replaced(old: Any, hint: Any, changes: dict[str, Any], where: str) -> Any:
    """A field's new value: first as a whole, then deeper down."""
    deeper = {path: value for path, value in changes.items() if path}
    if "" in changes:
        whole = changes[""]
        if deeper and isinstance(whole, (str, dict)):  # built at once: alone it might lack a field
            whole, deeper = _filled(whole, deeper), {}
        old = _whole(old, hint, whole, where)
    if not deeper:
        return old
    changes = deeper
    if isinstance(old, (tuple, list)):
        parts = list(old)
        for key, deeper in _by_head(changes).items():
            i = _index(key, parts, where)
            parts[i] = _replaced(parts[i], hint, deeper, f"{where}.{key}")
        return tuple(parts)
    if not isinstance(old, Plugin):
        raise ConfigError(f"{where} is {shown(old)}, which has no field {next(iter(changes))!r}.")
    return changed(old, changes, where)


def _filled(tree: str | dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A written plug-in with more of its fields."""
    tree = {"name": tree} if isinstance(tree, str) else copy.deepcopy(tree)
    for path, value in changes.items():
        put(tree, path, value)
    return tree


def put(tree: dict[str, Any], path: str, value: Any) -> None:
    """Set a value deep in what YAML holds, if there is a way to it.

    Args:
        tree: changed in place.
        path: dotted, through lists by number.
        value: to put there.
    """
    at: Any = tree
    *keys, last = path.split(".")
    for key in keys:
        if isinstance(at, list):
            at = at[int(key)] if key.isdigit() and int(key) < len(at) else None
        elif isinstance(at, dict):
            at[key] = {"name": at[key]} if isinstance(at.get(key), str) else at.get(key) or {}
            at = at[key]
    if isinstance(at, dict):
        at[last] = value


def _whole(old: Any, hint: Any, value: Any, where: str) -> Any:
    """What a written value stands for, as in a study: a mapping changes a plug-in of the same name."""
    if isinstance(value, dict) and isinstance(old, Plugin):
        fields = {k: v for k, v in value.items() if k != "name"}
        if value.get("name", type(old).__name__) == type(old).__name__:
            return changed(old, fields, where)
    return spec._value(hint, value, where)


def _index(key: str, parts: list[Any], where: str) -> int:
    if key.isdigit() and int(key) < len(parts):
        return int(key)
    raise ConfigError(f"{where} is a list of {len(parts)}: go on with a number below that, got {key!r}.")


def hint(plugin: Plugin, path: str) -> Any:
    """The annotation of the field at a path.

    Raises:
        ConfigError: there is no such field, naming the nearest that there is.
    """
    at: Any = plugin
    found: Any = type(plugin)
    for key in path.split("."):
        if isinstance(at, (tuple, list)) and key.isdigit() and int(key) < len(at):
            at = at[int(key)]
        elif isinstance(at, Plugin) and key in field_types(type(at)):
            found, at = field_types(type(at))[key], getattr(at, key)
        else:
            raise ConfigError(f"This experiment has no field {path!r}.{_nearest(path, known(plugin))}")
    return found


def admits(annotation: Any, kind: type) -> bool:
    """Whether a field takes values of a plain type: ``admits(Count, int)``."""
    if annotation is kind:
        return True
    return any(admits(part, kind) for part in typing.get_args(annotation))


def known(plugin: Plugin, where: str = "") -> list[str]:
    """Every path there is, in the order of the fields."""
    found = []
    for name in field_types(type(plugin)):
        path, value = f"{where}{name}", getattr(plugin, name)
        found.append(path)
        parts = enumerate(value) if isinstance(value, tuple) else [(None, value)]
        for i, part in parts:
            if isinstance(part, Plugin):
                found += known(part, f"{path}." if i is None else f"{path}.{i}.")
    return found


def _nearest(path: str, paths: list[str]) -> str:
    """Paths that end alike, or look alike."""
    last = path.rpartition(".")[2]
    alike = [p for p in paths if p.rpartition(".")[2] == last]
    alike = sorted(alike, key=lambda p: -difflib.SequenceMatcher(None, p, path).ratio())
    alike = (alike or difflib.get_close_matches(path, paths, n=3, cutoff=0.5))[:3]
    if not alike:
        alike = difflib.get_close_matches(last, paths, n=3, cutoff=0.3)
    return f" Did you mean {' or '.join(alike)}?" if alike else f" Known: {', '.join(paths)}."
