"""Experiments as YAML: every plug-in a mapping with its ``name`` and fields, every mistake named with its place."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from typing import Any

import yaml

import raysim.aggregators
import raysim.attacks
import raysim.compressors
import raysim.data
import raysim.data.partitions
import raysim.models
import raysim.objectives
import raysim.optimizers
import raysim.privacy
import raysim.probes
import raysim.rules
import raysim.topologies
from raysim.core.interfaces import (
    Aggregator,
    Data,
    Loss,
    Model,
    Objective,
    Optimizer,
    Partition,
    Probe,
    Rule,
    Topology,
)
from raysim.core.losses import CrossEntropy, SquaredError
from raysim.core.plugin import ConfigError, Opaque, Plugin, Schedule, field_types, shown
from raysim.core.transforms import Attack, Compressor, Privacy
from raysim.simulation import Simulation


class _Loader(yaml.SafeLoader):
    """YAML 1.2's floats: PyYAML alone reads 1e-3 as text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(\d[\d_]*\.?\d*([eE][-+]?\d+)|\d[\d_]*\.\d*|\.\d+([eE][-+]?\d+)?|\.(inf|Inf|INF)|\.(nan|NaN))$"
    ),
    list("-+0123456789."),
)


def classes(kind: type[Plugin]) -> dict[str, type[Plugin]]:
    """Every plug-in of a kind, by the name that YAML uses: what its folder's ``__init__`` lists."""
    folder = {
        Data: raysim.data,
        Partition: raysim.data.partitions,
        Model: raysim.models,
        Optimizer: raysim.optimizers,
        Schedule: raysim.optimizers,
        Rule: raysim.rules,
        Topology: raysim.topologies,
        Aggregator: raysim.aggregators,
        Compressor: raysim.compressors,
        Attack: raysim.attacks,
        Privacy: raysim.privacy,
        Objective: raysim.objectives,
        Probe: raysim.probes,
    }
    if kind is Loss:
        return {"CrossEntropy": CrossEntropy, "SquaredError": SquaredError}
    found = {name: getattr(folder[kind], name) for name in folder[kind].__all__}
    return {n: c for n, c in found.items() if isinstance(c, type) and issubclass(c, kind) and c is not kind}


def kinds() -> list[type[Plugin]]:
    """The kinds of plug-in, in the order in which an experiment names them."""
    return [
        Data,
        Partition,
        Model,
        Optimizer,
        Schedule,
        Rule,
        Topology,
        Aggregator,
        Attack,
        Privacy,
        Compressor,
        Objective,
        Probe,
        Loss,
    ]


# ---- reading ---------------------------------------------------------------------------------------------------


def read(text: str, overrides: list[str]) -> dict[str, Any]:
    """The mapping a YAML text holds, with overrides ``dotted.path=value``.

    Raises:
        ConfigError: it is not YAML, or no mapping.
    """
    try:
        tree = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"The experiment is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ConfigError(
            f"An experiment is a mapping of fields (data, partition, model, ...), got {shown(tree)}."
        )
    for override in overrides:
        _override(tree, override)
    return tree


def load(text: str, overrides: list[str], name: str = "") -> Simulation:
    """The Simulation of a YAML text with overrides ``dotted.path=value``."""
    tree = read(text, overrides)
    if name and not tree.get("name"):
        tree["name"] = name
    result = build(Simulation, tree, "experiment", named=False)
    assert isinstance(result, Simulation)
    return result


def _override(tree: dict[str, Any], text: str) -> None:
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise ConfigError(f"An override is written path=value, such as rule.server.lr=0.1; got {text!r}.")
    keys = path.strip().split(".")
    at: Any = tree
    for key in keys[:-1]:
        key = _place(at, key, path)
        below = at[key] if isinstance(at, list) else at.get(key)
        if isinstance(below, str):
            below = {"name": below}
        at[key] = {} if below is None else below
        at = at[key]
        if not isinstance(at, (dict, list)):
            raise ConfigError(f"Override {path}: {key} is {shown(at)}, which has no fields.")
    at[_place(at, keys[-1], path)] = yaml.load(value, _Loader)


def _place(at: dict[str, Any] | list[Any], key: str, path: str) -> Any:
    """The key, as a number where it leads into a list."""
    if not isinstance(at, list):
        return key
    if not key.isdigit() or int(key) >= len(at):
        raise ConfigError(
            f"Override {path}: {key!r} leads into a list of {len(at)}, whose entries are numbered from 0."
        )
    return int(key)


def build(cls: type[Plugin], tree: dict[str, Any], where: str, named: bool = True) -> Plugin:
    """A plug-in from its fields.

    Raises:
        ConfigError: unknown or missing fields, or values the plug-in refuses.
    """
    hints = field_types(cls)
    given = {k: v for k, v in tree.items() if not (named and k == "name")}
    for field in given:
        if field not in hints:
            raise ConfigError(
                f"{where}: {cls.__name__} has no field {field!r}. {_nearest(field, list(hints))}"
            )
    given = {f: _with_default_name(cls, f, v) for f, v in given.items()}
    values = {
        f: _value(hints[f], v, f if where == "experiment" else f"{where}.{f}") for f, v in given.items()
    }
    needed = [
        f.name
        for f in _fields(cls)
        if f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
        and f.name not in values
    ]
    if needed:
        raise ConfigError(f"{where}: {cls.__name__} needs {' and '.join(needed)}.")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _fields(cls: type[Plugin]) -> tuple[dataclasses.Field, ...]:
    return dataclasses.fields(cls)  # type: ignore[arg-type]  # every plug-in is a dataclass, its base alone is not


def _with_default_name(cls: type[Plugin], field: str, value: Any) -> Any:
    """Fields given for a part that is not named are meant for the part that stands there by default."""
    if not isinstance(value, dict) or "name" in value:
        return value
    factory = next((f.default_factory for f in _fields(cls) if f.name == field), dataclasses.MISSING)
    default = None if factory is dataclasses.MISSING else factory()
    known = isinstance(default, Plugin) and type(default).__mro__[1] is not Plugin
    return {"name": type(default).__name__, **value} if known else value


def _value(hint: Any, value: Any, where: str) -> Any:
    """A field's value: plug-ins built, lists descended into, everything else left for the plug-in's own check."""
    wanted = plugins_in(hint)
    if wanted and typing.get_origin(hint) is tuple:  # a single entry needs no list
        entry = typing.Union[tuple(a for a in typing.get_args(hint) if a is not ...)]  # noqa: UP007 (at run time)
        entries = value if isinstance(value, list) else [] if value is None else [value]
        return [_value(entry, v, f"{where}[{i}]") for i, v in enumerate(entries)]
    if not wanted or value is None:
        return value
    if isinstance(value, list):
        return [_value(hint, v, f"{where}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, dict):
        return value
    concrete = [cls for cls in wanted if dataclasses.is_dataclass(cls)]
    if concrete and "name" not in value:
        return build(concrete[0], value, where)
    choices = {name: cls for kind in wanted if kind not in concrete for name, cls in classes(kind).items()}
    if "name" not in value:
        raise ConfigError(f"{where} needs a name: one of {', '.join(choices)}.")
    name = value["name"]
    if name not in choices:
        kind = " or ".join(k.__name__.lower() for k in wanted)
        others = [a for a in typing.get_args(hint) if a not in (type(None), ...) and not plugins_in(a)]
        plain = "A plain value is allowed too. " if others else ""
        raise ConfigError(
            f"{where}: there is no {kind} {name!r}. {plain}{_nearest(str(name), list(choices))}"
        )
    return build(choices[name], value, where)


def plugins_in(hint: Any) -> list[type[Plugin]]:
    """The plug-in classes an annotation admits."""
    if isinstance(hint, type) and issubclass(hint, Plugin):
        return [hint]
    if typing.get_origin(hint) in (typing.Union, types.UnionType, tuple, typing.Annotated):
        return [cls for arg in typing.get_args(hint) for cls in plugins_in(arg)]
    return []


def _nearest(word: str, known: list[str]) -> str:
    lower = {k.lower(): k for k in known}
    close = difflib.get_close_matches(word.lower(), list(lower), n=1, cutoff=0.5)
    hint = f"Did you mean {lower[close[0]]!r}? " if close else ""
    return f"{hint}Known: {', '.join(known)}."


# ---- writing ---------------------------------------------------------------------------------------------------


def dump(simulation: Simulation) -> str:
    """The experiment as YAML, every field written out.

    Raises:
        ConfigError: a part holds what no text can (arrays, functions); it runs all the same, from Python.
    """
    return yaml.safe_dump(picture(simulation), sort_keys=False, width=120)


def opaque(plugin: Plugin, where: str = "") -> list[str]:
    """Paths of fields that no file can hold, and of classes that are not raysim's own."""
    found = []
    own = type(plugin) in {c for kind in kinds() for c in classes(kind).values()}
    if where and not own and any(issubclass(type(plugin), kind) for kind in kinds()):
        found.append(f"{where} ({type(plugin).__name__} is not part of raysim)")
    for name, hint in field_types(type(plugin)).items():
        value, path = getattr(plugin, name), f"{where}.{name}" if where else name
        if value is not None and Opaque in getattr(hint, "__metadata__", ()):
            found.append(path)
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, Plugin):
                found += opaque(part, path)
    return found


def picture(simulation: Simulation) -> dict[str, Any]:
    """The experiment as plain data."""
    hidden = opaque(simulation)
    if hidden:
        raise ConfigError(
            f"This experiment cannot be written to a file: {', '.join(hidden)} exists in Python only. It runs all the "
            "same; to submit or resume it by file use a named plug-in (data in .npz files: Npz)."
        )
    return _plain(simulation, named=False)


def _plain(value: Any, named: bool = True) -> Any:
    if isinstance(value, Plugin):
        fields = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}  # type: ignore[arg-type]
        base = type(value).__mro__[1]
        return ({"name": type(value).__name__} if named and base is not Plugin else {}) | fields
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return value
