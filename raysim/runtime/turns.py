"""Whose turn it is: jobs that wait for what others have get it in the order in which they came.

Ray gives what becomes free to whoever it is enough for: runs that want little would overtake one that wants much, for
ever. So a job that waits takes a ticket, a placement group that reserves next to nothing of the head node, and waits
until those of earlier jobs are gone. Ray takes a ticket away with the process that took it, however that ends: there
is no daemon, no clock and nothing to clean up. The numbers are those that Ray gives to drivers as they join.

Runs with GPUs stand in one line, runs without in another. Tickets are about order alone: where two jobs come at the
same moment and neither sees the other's, both ask Ray at once, as they would without.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import ray
from ray._raylet import JobID
from ray.util.placement_group import PlacementGroup, PlacementGroupID, placement_group_table

LINE = "raysim-turn"
SLIVER = {"node:__internal_head__": 0.0001}
"""What a ticket reserves: the least that Ray counts, of a resource that every head has 1 of and nobody uses up."""

LOOK, EACH = 1.0, 60.0  # seconds between looks at who is before, and between words about it


def own_number() -> int:
    """The number of this process's job: later ones have greater ones."""
    return JobID.from_hex(ray.get_runtime_context().get_job_id()).int()


@contextlib.contextmanager
def in_turn(run: str, kind: str, tell: Callable[[str], None], number: int) -> Iterator[Callable[[], None]]:
    """Inside, this job is the first of those that wait; gives a call that lets the next one go first.

    Args:
        run: the job's name, for others to read.
        kind: what it waits for: jobs of one kind stand in one line.
        tell: called with what is waited for.
        number: its place in the line.
    """
    ticket = ray.util.placement_group([SLIVER], name=f"{LINE}/{kind}/{number:012d}/{run}")
    leave = lambda: ray.util.remove_placement_group(ticket)
    try:
        _await(_before(kind, number), tell)
        yield leave
    finally:
        leave()


def _before(kind: str, number: int) -> list[tuple[str, PlacementGroup]]:
    """Name and ticket of each job that is before, the first of them first."""
    line, own = f"{LINE}/{kind}/", f"{LINE}/{kind}/{number:012d}"
    found = [
        (group["name"], PlacementGroup(PlacementGroupID.from_hex(id)))
        for id, group in placement_group_table().items()
        if group["name"].startswith(line) and group["name"] < own and group["state"] != "REMOVED"
    ]
    return sorted(found, key=lambda ticket: ticket[0])


def _await(before: list[tuple[str, PlacementGroup]], tell: Callable[[str], None]) -> None:
    word = 0.0
    for i, (name, ticket) in enumerate(before):
        while _there(ticket):
            if time.monotonic() >= word:
                word = time.monotonic() + EACH
                first = name.rpartition("/")[2].removeprefix("raysim-")
                tell(f"waiting for its turn after {_runs(len(before) - i)} (the first: {first})")
            time.sleep(LOOK)


def _runs(number: int) -> str:
    return "1 run that came before" if number == 1 else f"{number} runs that came before"


def _there(ticket: PlacementGroup) -> bool:
    return placement_group_table(ticket).get("state", "REMOVED") != "REMOVED"
