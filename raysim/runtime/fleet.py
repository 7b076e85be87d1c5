"""The fleet without Ray: one host in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raysim.core.clients import Clients
from raysim.core.cohorts import Plan
from raysim.core.host import CHUNK, Host, Partial, Setup
from raysim.core.interfaces import Probe, Rule
from raysim.core.mixing import Mixing
from raysim.core.placement import Placement
from raysim.core.plugin import ConfigError
from raysim.core.server import Server
from raysim.runtime import checkpoint


class HostLost(RuntimeError):
    """Hosts died during an exchange; they have been replaced by empty ones."""


class LocalFleet:
    """Every client lives here.

    Args:
        setup: the experiment, ready to run.
        device: where to compute.
    """

    def __init__(self, setup: Setup, device: str) -> None:
        self.host = Host(setup, device)
        self.chunks = chunks(setup)

    def exchange(
        self,
        function: Callable[..., Any],
        shared: tuple[Any, ...],
        plan: Plan,
        reduce: str,
        measure: bool = False,
    ) -> list[Partial]:
        """Run a client function on the whole plan."""
        return [self.host.exchange(function, shared, plan, reduce, measure)]

    def mix(self, name: str, mixing: Mixing) -> int:
        """Replace clients' rows by weighted sums of their neighbours'; returns their width."""
        self.host.mix(name, mixing)
        return len(self.host.rows.fills[name])

    def fetch(self, name: str, ids: np.ndarray) -> Tensor:
        """Rows of some clients, in that order."""
        return self.host.rows.pick(name, ids).cpu()

    def evaluate(self, x_P: Tensor) -> tuple[float, float | None]:
        """Mean loss and accuracy on the test set."""
        return pooled(self.host.evaluate(x_P, self.chunks))

    def time_forms(self, forms: list[str], plan: Plan, x_P: Tensor) -> dict[str, float]:
        """Seconds for the first block in each form."""
        return {form: self.host.time_form(form, plan, x_P) for form in forms}

    def set_form(self, form: str) -> None:
        """Train in this form from here on."""
        self.host.set_form(form)

    def save_rows(self, folder: Path) -> int:
        """Write the clients' rows beside a checkpoint; returns the number of files."""
        return checkpoint.save_rows(self.host.rows, folder / "rows-0.safetensors")

    def load_rows(self, files: list[Path]) -> None:
        """Start from the rows of a checkpoint (none: from nothing)."""
        checkpoint.load_rows(self.host.rows, files)

    def close(self) -> None:
        """Nothing to give back."""


def chunks(setup: Setup) -> list[int]:
    """Numbers of the test set's chunks."""
    return list(range(-(-len(setup.dataset.x_test) // CHUNK)))


def pooled(parts: list[tuple[float, float | None, int]]) -> tuple[float, float | None]:
    """Mean loss and accuracy from the sums of all chunks, in their order."""
    number = sum(n for _, _, n in parts)
    loss = float(np.sum([total for total, _, _ in parts])) / number
    hits = [h for _, h, _ in parts if h is not None]
    return loss, float(np.sum(hits)) / number if hits else None


def device_of(place: Placement) -> str:
    """Where clients compute, "cpu" or "cuda".

    Raises:
        ConfigError: a GPU is asked for in this process and torch sees none.
    """
    if place.actors:
        return "cuda" if place.gpus_per_actor > 0 else "cpu"
    if place.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "Placement.device is 'cuda', but torch sees no GPU here. Use device: cpu, or run "
            "`raysim doctor` to see what torch was built for."
        )
    return "cuda" if place.device == "cuda" else "cpu"


def started(
    setup: Setup, place: Placement, device: str, tell: Callable[[str], Any], reserved: Any = None
) -> Any:
    """The fleet that is asked for: Ray is imported only where there are actors.

    Args:
        setup: the experiment, ready to run.
        place: where clients live.
        device: "cpu" or "cuda".
        tell: called with what is waited for.
        reserved: room for client actors; None to reserve it.
    """
    if place.actors == 0:
        return LocalFleet(setup, device)
    from raysim.runtime.ray_fleet import RayFleet

    return RayFleet(setup, place, tell, reserved)


def probed(probes: list[Probe], clients: Clients, rule: Rule, server: Server) -> dict[str, float]:
    """What probes that all look before the round, or all after it, see."""
    seen: dict[str, float] = {}
    if any(not probe.after for probe in probes):
        server = rule.informed(clients, server)
    for probe in probes:
        seen |= probe.measure(clients, rule, server)
    return seen
