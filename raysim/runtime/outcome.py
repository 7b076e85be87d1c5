"""What a run comes to, and what it counts on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raysim.core.server import Server


@dataclass
class Outcome:
    """What a run came to.

    Args:
        status: "finished", "diverged" or "stopped".
        server: the last server (the one before it diverged).
        rows: metrics of every evaluated round.
        form: execution form that ran.
        block: clients per block.
        seconds: spent in rounds, without start-up and evaluation.
    """

    status: str
    server: Server
    rows: list[dict[str, Any]]
    form: str
    block: int
    seconds: float


@dataclass
class Tally:
    """Running totals that resume with the run."""

    bits_up: int = 0
    bits_down: int = 0
    client_updates: int = 0
    seconds: float = 0.0
