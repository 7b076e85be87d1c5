"""Whether this machine, or a cluster, is fit for raysim, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raysim.doctor import cluster, machine
from raysim.doctor.finding import Finding, asked, report

if TYPE_CHECKING:
    from raysim.simulation import Simulation

__all__ = ["Finding", "asked", "examine", "report"]


def examine(
    address: str | None = None, simulation: Simulation | None = None, storage: str | None = None
) -> list[Finding]:
    """All findings, the quick ones first.

    Args:
        address: Ray cluster to examine ("auto" or host:port); None starts Ray on this machine for a moment.
        simulation: experiment that is to fit on the cluster.
        storage: path or URL that all nodes of the cluster are to see.
    """
    findings = [asked(check) for check in machine.CHECKS]
    if address is None:
        return [*findings, asked(machine.ray_runs, "ray starts")]
    return findings + cluster.examine(address, simulation, storage)
