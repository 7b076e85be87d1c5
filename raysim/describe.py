"""What raysim has to offer, read from the plug-ins themselves: names, fields, ranges, defaults, papers."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from dataclasses import dataclass
from typing import Any

from raysim import spec
from raysim.core.execution import Execution
from raysim.core.interfaces import Topology
from raysim.core.local import Local
from raysim.core.placement import Placement
from raysim.core.plugin import ConfigError, Opaque, Plugin, field_docs, field_types, paper, summary
from raysim.simulation import Simulation
from raysim.topologies.spectrum import beta, period

PARTS: tuple[type[Plugin], ...] = (Simulation, Local, Execution, Placement)
"""The parts of which there is one of each."""

_WORDS = {int: "integer", float: "number", str: "text", bool: "true or false", type(None): "null"}
_SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


@dataclass(frozen=True)
class FieldCard:
    """A field of a plug-in, for people.

    Args:
        name: as YAML writes it.
        type: in words, with its range.
        default: as text; "required" where there is none.
        meaning: from the docstring.
    """

    name: str
    type: str
    default: str
    meaning: str


def catalogue() -> dict[str, dict[str, type[Plugin]]]:
    """Every plug-in by kind and name; the kind "experiment" holds the parts of which there is one of each."""
    parts = {"experiment": {cls.__name__: cls for cls in PARTS}}
    return parts | {kind.__name__.lower(): spec.classes(kind) for kind in spec.kinds()}


def find(name: str) -> type[Plugin]:
    """The plug-in of that name, in any case.

    Raises:
        ConfigError: there is none, naming the nearest.
    """
    known = {n: cls for group in catalogue().values() for n, cls in group.items()}
    lower = {n.lower(): n for n in known}
    if name.lower() in lower:
        return known[lower[name.lower()]]
    close = difflib.get_close_matches(name.lower(), list(lower), n=2, cutoff=0.6)
    near = " or ".join(repr(lower[n]) for n in close)
    hint = f"Did you mean {near}? " if near else ""
    raise ConfigError(f"There is no plug-in {name!r}. {hint}`raysim describe` lists them all.")


def kind_of(cls: type[Plugin]) -> str:
    """The kind a plug-in is listed under."""
    return next(kind for kind, group in catalogue().items() if cls in group.values())


def fields(cls: type[Plugin]) -> list[FieldCard]:
    """Every field of a plug-in, in its order."""
    docs = field_docs(cls)
    cards = []
    for f in dataclasses.fields(cls):  # type: ignore[arg-type]
        default = _default(f)
        text = "required" if default is dataclasses.MISSING else _yaml(default)
        cards.append(FieldCard(f.name, in_words(field_types(cls)[f.name]), text, docs.get(f.name, "")))
    return cards


def in_words(hint: Any) -> str:
    """An annotation as a person would say it: "number > 0, or Schedule"."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        if Opaque in args:
            return "an object, from Python only"
        return f"{in_words(args[0])} {', '.join(_ranges(args[1:]))}".strip()
    if origin is typing.Literal:
        return " | ".join(map(_yaml, args))
    if origin in (typing.Union, types.UnionType):
        return ", or ".join(in_words(a) for a in args)
    if origin is tuple:
        return f"list of [{', '.join(in_words(a) for a in args if a is not ...)}]"
    return _WORDS.get(hint) or getattr(hint, "__name__", str(hint))


def _ranges(metadata: tuple[Any, ...]) -> list[str]:
    """Bounds of a pydantic Field: "≥ 0", "< 1"."""
    bounds = [part for m in metadata for part in getattr(m, "metadata", ())]
    return [f"{sign} {getattr(b, key):g}" for b in bounds for key, sign in _SIGNS.items() if hasattr(b, key)]


def _default(f: dataclasses.Field[Any]) -> Any:
    return f.default if f.default_factory is dataclasses.MISSING else f.default_factory()


def _yaml(value: Any) -> str:
    """A value as it stands in YAML, on one line."""
    import yaml

    if isinstance(value, Plugin):
        given = ((f.name, getattr(value, f.name), _default(f)) for f in dataclasses.fields(value))  # type: ignore[arg-type]
        changed = [f"{name}: {_yaml(part)}" for name, part, default in given if part != default]
        name = type(value).__name__
        if isinstance(value, PARTS):
            return f"{{{', '.join(changed)}}}"
        return f"{{{', '.join([f'name: {name}', *changed])}}}" if changed else name
    if isinstance(value, tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    return yaml.safe_dump(value, default_flow_style=True, width=1000).strip().removesuffix("...").strip()


def snippet(cls: type[Plugin]) -> str:
    """YAML that writes a plug-in out: every field, default and meaning; required ones stay blank."""
    kind = kind_of(cls)
    lines = [] if cls is Simulation else [f"{cls.__name__.lower() if cls in PARTS else kind}:"]
    indent = "  " if lines else ""
    lines += [] if cls in PARTS else [f"{indent}name: {cls.__name__}"]
    for card in fields(cls):
        required = card.default == "required"
        value = f"  # required, {card.type}; " if required else f" {card.default}  # "
        lines.append(f"{indent}{card.name}:{value}{card.meaning}")
    return "\n".join(lines) + "\n"


def listing() -> Any:
    """All plug-ins by kind with a line each, for rich to print."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for kind, group in catalogue().items():
        table.add_row(Text(f"\n{kind}", style="bold"), "")
        for name, cls in group.items():
            table.add_row(Text(f"  {name}", style="cyan"), Text(summary(cls).replace("``", "`")))
    return table


def card(cls: type[Plugin]) -> Any:
    """Everything about one plug-in, for rich to print."""
    import inspect

    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    body = inspect.cleandoc(cls.__doc__ or "").replace("``", "`").split("\n\n")
    prose = [_flowing(p) for p in body if not p.startswith(("Paper:", "Args:"))]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("field", "type", "default", "meaning"):
        table.add_column(column, overflow="fold", no_wrap=column == "field")
    for f in fields(cls):
        table.add_row(
            Text(f.name, style="cyan"), Text(f.type), Text(f.default), Text(f.meaning.replace("``", "`"))
        )
    head = Text.assemble((cls.__name__, "bold cyan"), f"  ({kind_of(cls)})")
    parts = [head, *(Text("\n" + p) for p in prose), "", table if fields(cls) else Text("No fields.")]
    if issubclass(cls, Topology) and all(f.default != "required" for f in fields(cls)):
        parts.append(Text("\n" + mixing_speed(cls())))
    return Group(*parts, Text(f"\nPaper: {paper(cls)}"))


def mixing_speed(topology: Topology) -> str:
    """β and the spectral gap 1 - β for a few numbers of clients, a line each."""
    lines = ["β = ||W - 11ᵀ/n||, 1 is no mixing, and spectral gap 1 - β" + ", per period:" * topology.varies]
    for clients in (8, 32, 100):
        b, rounds = beta(topology, clients), period(topology, clients)
        over = f" ({rounds} rounds)" if topology.varies else ""
        lines.append(f"  {clients:3} clients{over}: β {b:.4f}, gap {1 - b:.3g}")
    return "\n".join(lines)


def _flowing(paragraph: str) -> str:
    """A paragraph for the terminal to wrap; one with indented lines (a table, a formula) keeps its lines."""
    return paragraph if "\n " in paragraph else paragraph.replace("\n", " ")
