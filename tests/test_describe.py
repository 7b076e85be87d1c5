"""Every plug-in explains itself, and `raysim describe` says what its fields admit."""

import dataclasses
from typing import Annotated, Literal

import pytest
import yaml
from pydantic import Field

from raysim import describe, spec
from raysim.core.interfaces import Optimizer
from raysim.core.plugin import ConfigError, Count, Opaque, Rate, field_docs, paper, summary

EVERY = [cls for group in describe.catalogue().values() for cls in group.values()]


@pytest.mark.parametrize("cls", EVERY, ids=lambda cls: cls.__name__)
def test_documented(cls):
    """A summary, a sentence per field and no other, and where it comes from."""
    assert summary(cls).endswith((".", ":"))
    names = [f.name for f in dataclasses.fields(cls)]
    assert sorted(field_docs(cls)) == sorted(names)
    assert all(len(text) > 5 for text in field_docs(cls).values())
    assert paper(cls), f"{cls.__name__} has no 'Paper:' line; write 'Paper: none.' if there is none."


@pytest.mark.parametrize("cls", EVERY, ids=lambda cls: cls.__name__)
def test_described(cls):
    """Each field has a type in words, and the YAML to paste holds its defaults."""
    assert describe.find(cls.__name__.lower()) is cls
    cards = describe.fields(cls)
    assert [card.name for card in cards] == [f.name for f in dataclasses.fields(cls)]
    assert not any("typing" in card.type or "Annotated" in card.type for card in cards)
    written = yaml.load(describe.snippet(cls), spec._Loader)
    fields = written if cls.__name__ == "Simulation" else next(iter(written.values()))
    required = [card.name for card in cards if card.default == "required"]
    assert {card.name for card in cards} == set(fields) - {"name"} | ({"name"} & {c.name for c in cards})
    if not required:
        assert spec.build(cls, fields, "pasted") == cls()


def test_names_are_unique_in_any_case():
    names = [cls.__name__.lower() for cls in EVERY]
    assert len(names) == len(set(names))


def test_every_kind_has_plugins():
    assert all(describe.catalogue().values())


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (Count, "integer ≥ 1"),
        (Rate, "number > 0, or Schedule"),
        (Annotated[float, Field(ge=0, lt=1)], "number ≥ 0, < 1"),
        (Count | None, "integer ≥ 1, or null"),
        (tuple[Count, ...], "list of [integer ≥ 1]"),
        (Literal["auto", "cpu"], "auto | cpu"),
        (Optimizer | None, "Optimizer, or null"),
        (Annotated[object, Opaque], "an object, from Python only"),
        (bool, "true or false"),
    ],
)
def test_types_in_words(hint, words):
    assert describe.in_words(hint) == words


def test_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"Did you mean 'Averaging'"):
        describe.find("Avraging")
    with pytest.raises(ConfigError, match="`raysim describe` lists"):
        describe.find("zzzzzzzz")


def test_a_topology_says_how_fast_it_mixes():
    from rich.console import Console

    from raysim import topologies

    def text(cls):
        console = Console(width=200)
        with console.capture() as capture:
            console.print(describe.card(cls))
        return capture.get()

    ring = text(topologies.Ring)
    assert "8 clients: β 0.8047, gap 0.195" in ring
    assert "32 clients: β 0.9872, gap 0.0128" in ring
    assert "100 clients: β 0.9987, gap 0.00132" in ring
    assert "8 clients (3 rounds): β 0.0000, gap 1" in text(topologies.OnePeerExponential)
    assert "gap" not in text(topologies.ErdosRenyi)
