"""What every part of an experiment has in common: a frozen dataclass whose fields are checked when it is built.

A plug-in is data. It holds numbers and other plug-ins, never running state, so it can be written to YAML, compared,
hashed and shipped to an actor. Field types are checked by pydantic; the words of an error are ours.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from typing import Annotated, Any

import numpy as np
from pydantic import ConfigDict, Field, InstanceOf, TypeAdapter, ValidationError

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]


class ConfigError(ValueError):
    """An experiment that cannot be run as written: which field, what was got, what to write instead."""


class Plugin:
    """Base of every named part. Subclasses are ``@dataclass(frozen=True)``; wrong values are refused at once."""

    def __post_init__(self) -> None:
        """Check every field against its annotation, then ``self.check()`` for what spans several fields."""
        for name, adapter in _adapters(type(self)).items():
            value = checked(f"{type(self).__name__}.{name}", adapter, getattr(self, name))
            object.__setattr__(self, name, value)
        self.check()

    def check(self) -> None:
        """Raise ConfigError when fields that are fine alone do not go together. Nothing by default."""


class Opaque:
    """Marks a field, ``Annotated[Callable, Opaque]``, that no text file can hold (an array, a function)."""


@functools.cache
def field_types(cls: type) -> dict[str, Any]:
    """Annotations of a dataclass's fields, resolved, with their constraints."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


@functools.cache
def _adapters(cls: type) -> dict[str, TypeAdapter]:
    return {name: _adapter(hint) for name, hint in field_types(cls).items()}


def _adapter(hint: Any) -> TypeAdapter:
    if isinstance(hint, type) and issubclass(hint, Plugin):
        return TypeAdapter(_plain(hint))  # which pydantic will not take a configuration for
    return TypeAdapter(_plain(hint), config=ConfigDict(arbitrary_types_allowed=True))


def checked(where: str, adapter: TypeAdapter, value: Any) -> Any:
    """``value`` as the field wants it (a list becomes a tuple, a numpy scalar a number), or ConfigError."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, list):
        value = tuple(value)
    try:
        return adapter.validate_python(value, strict=True)
    except ValidationError as error:
        raise ConfigError(f"{where} {_reason(error)}, got {shown(value)}.") from None


def shown(value: Any) -> str:
    """A value for an error message: short, one line."""
    text = repr(value).replace("\n", " ")
    return text if len(text) <= 80 else text[:77] + "..."


def _plain(annotation: Any) -> Any:
    """Plug-in classes as instance checks: pydantic would otherwise rebuild dataclasses field by field."""
    if isinstance(annotation, type) and issubclass(annotation, Plugin):
        return InstanceOf[annotation]
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return typing.Union[tuple(_plain(a) for a in args)]  # noqa: UP007 (built at run time)
    if origin is tuple:
        return tuple[tuple(a if a is ... else _plain(a) for a in args)]
    return annotation


def _reason(error: ValidationError) -> str:
    """Pydantic's findings as one clause: 'must be greater than 0' or 'must be a number or a Schedule'."""
    found = []
    for e in error.errors():
        message = (
            e["msg"].removeprefix("Input should be ").removeprefix("a valid ").removeprefix("an instance of ")
        )
        message = "a list" if message == "tuple" else message
        if message not in found:
            found.append(message)
    return "must be " + " or ".join(found)


def summary(cls: type) -> str:
    """First sentence of a plug-in's docstring."""
    return (cls.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ").strip()


def paper(cls: type) -> str:
    """The docstring's 'Paper:' paragraph on one line, or ''."""
    for paragraph in (cls.__doc__ or "").split("\n\n"):
        lines = [line.strip() for line in paragraph.strip().splitlines()]
        if lines and lines[0].startswith("Paper:"):
            return " ".join(lines).removeprefix("Paper:").strip()
    return ""


def field_docs(cls: type) -> dict[str, str]:
    """What the docstring's 'Args:' section says of each field (Google style)."""
    docs: dict[str, str] = {}
    doc = cls.__doc__ or ""
    if "Args:" not in doc:
        return docs
    body = doc.split("Args:\n", 1)[1].split("\n\n", 1)[0].rstrip().splitlines()
    indent = len(body[0]) - len(body[0].lstrip())
    name = ""
    for line in body:
        text = line.strip()
        if len(line) - len(line.lstrip()) == indent and ":" in text:
            name, text = text.split(":", 1)
            docs[name] = text.strip()
        elif name:
            docs[name] += " " + text
    return docs


class Schedule(Plugin):
    """A number that changes with the round: ``value(round)``."""

    def value(self, round: int) -> float:
        """The number in force in ``round`` (0 is the first)."""
        raise NotImplementedError


Rate = typing.Union[Positive, Schedule]  # noqa: UP007 (an alias, evaluated on 3.10)
"""A step size: a positive number, or a schedule over rounds."""


def at_round(rate: float | Schedule, round: int) -> float:
    """The number behind a step size in ``round``."""
    return rate.value(round) if isinstance(rate, Schedule) else rate
