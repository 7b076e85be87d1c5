"""Where clients live: in this process, or in Ray actors with CPUs or fractions of GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from raysim.core.plugin import ConfigError, Count, CountOrZero, Plugin, Positive

IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Variable that Ray sets for what a job runs: that belongs on the job's cluster."""


@dataclass(frozen=True)
class Placement(Plugin):
    """Where clients live. The numbers do not depend on it: 0, 1 or 3 actors end in the same bits.

    Paper: none.

    Args:
        actors: Ray client actors; 0 runs in this process, without Ray (with an address, or in a job: in one process
            on the cluster that reserves `threads` CPUs).
        cpus_per_actor: CPUs that Ray reserves for each actor.
        gpus_per_actor: GPUs for each actor: a fraction that several actors share, or 0; whole numbers stop at 1.
        threads: torch threads per actor or process. More than 1 may change the last bits of sums.
        device: "auto" (CUDA for actors with a GPU, else the CPU), "cpu" or "cuda" (in process only).
        address: Ray cluster to join ("auto" or host:port); None uses the running Ray or starts one on this machine.
        timeout: seconds to wait for one exchange before giving up on the cluster.
        wait: seconds to wait for CPUs and GPUs that other work on the cluster has, before giving up.
    """

    actors: CountOrZero = 0
    cpus_per_actor: Positive = 1.0
    gpus_per_actor: Annotated[float, Field(ge=0, le=1)] = 0.0
    threads: Count = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    address: str | None = None
    timeout: Positive = 3600.0
    wait: Positive = 60.0

    def check(self) -> None:
        """Settings that need actors have some."""
        if self.actors == 0 and self.gpus_per_actor > 0:
            raise ConfigError(
                f"Placement.gpus_per_actor is {self.gpus_per_actor}, but there are no actors. Set actors to 1 or more, "
                "or use device: cuda to run on a GPU in this process."
            )
        if self.actors > 0 and self.device == "cuda" and self.gpus_per_actor == 0:
            raise ConfigError(
                "Placement.device is 'cuda', but the actors have no GPU. Set gpus_per_actor, for example to 0.5."
            )
