"""A study as it is written: the block ``study`` of an experiment's YAML, and variants merged into the experiment."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

from raysim import spec
from raysim.core.plugin import ConfigError, Count, Plugin, shown
from raysim.simulation import Simulation


@dataclass(frozen=True)
class Panel(Plugin):
    """What is drawn: a metric, against one or several quantities.

    Args:
        metric: column on the vertical axis.
        against: columns on the horizontal axes, a panel each.
    """

    metric: str = "loss"
    against: tuple[str, ...] = ("round",)


@dataclass(frozen=True)
class Block(Plugin):
    """The block ``study`` of the file."""

    variants: dict[str, Any]
    conditions: dict[str, Any] = field(default_factory=dict)
    seeds: Count = 1
    plot: tuple[Panel, ...] = (Panel(against=("round", "bits_up")),)
    columns: tuple[str, ...] = ()

    def check(self) -> None:
        """At least one variant; each, and each condition, a mapping of changes."""
        if not self.variants:
            raise ConfigError("variants is empty. Name at least one: variants: {plain: {}}.")
        both = [("Variant", self.variants), ("Condition", self.conditions)]
        for what, label, changes in ((w, *item) for w, changed in both for item in changed.items()):
            if not isinstance(changes, dict):
                raise ConfigError(
                    f"{what} {label!r} must be a mapping of changes to the experiment, such as {{rule: {{name: "
                    f"Averaging}}}} or {{local.optimizer.lr: 0.1}}, got {shown(changes)}."
                )


def block(tree: Any) -> Block:
    """The block ``study``, where a single panel and a single axis need no list."""
    if not isinstance(tree, dict):
        raise ConfigError(f"study must be a mapping with variants, got {shown(tree)}.")
    tree = dict(tree)
    for part in ("variants", "conditions"):
        if isinstance(tree.get(part), dict):
            tree[part] = {
                str(label): {} if changes is None else changes for label, changes in tree[part].items()
            }
    if isinstance(tree.get("plot"), dict):
        tree["plot"] = [tree["plot"]]
    for panel in tree["plot"] if isinstance(tree.get("plot"), list) else ():
        if isinstance(panel, dict) and isinstance(panel.get("against"), str):
            panel["against"] = [panel["against"]]
    built = spec.build(Block, tree, "study", named=False)
    assert isinstance(built, Block)
    return built


def variant(tree: dict[str, Any], label: str, *changes: dict[str, Any]) -> Simulation:
    """The experiment with changes, one after the other.

    Raises:
        ConfigError: naming the variant and field, what was got and what is allowed.
    """
    try:
        simulation = spec.build(
            Simulation, functools.reduce(_merged, changes, tree), "experiment", named=False
        )
    except ConfigError as error:
        raise ConfigError(f"Variant {label!r}: {error}") from None
    assert isinstance(simulation, Simulation)
    return simulation


def _merged(tree: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy of ``tree`` with changes, whose keys may be dotted paths."""
    tree = dict(tree)
    for path, value in changes.items():
        key, _, rest = str(path).partition(".")
        tree[key] = _over(tree.get(key), {rest: value} if rest else value)
    return tree


def _over(old: Any, new: Any) -> Any:
    """``new`` in place of ``old``; fields of the same plug-in are merged, those of another are not."""
    if not isinstance(new, dict):
        return new
    if isinstance(old, list) and new and all(str(path).partition(".")[0].isdigit() for path in new):
        return _entries(old, new)
    old = {"name": old} if isinstance(old, str) else old
    other = not isinstance(old, dict) or ("name" in new and new["name"] != old.get("name"))
    return _merged({} if other else old, new)


def _entries(old: list[Any], changes: dict[str, Any]) -> list[Any]:
    """A copy of a list with changes, whose keys begin with the number of an entry."""
    new = list(old)
    for path, value in changes.items():
        key, _, rest = str(path).partition(".")
        i = int(key)
        if i >= len(new):
            raise ConfigError(f"{path!r} leads into a list of {len(new)}, whose entries are numbered from 0.")
        new[i] = _over(new[i], {rest: value} if rest else value)
    return new
