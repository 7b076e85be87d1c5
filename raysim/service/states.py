"""What state a run is in, from what Ray says of its job, the last line of the job's log, and run.json.

| Ray's job                    | the job's last line, its exit code          | run.json            | state    |
| ---------------------------- | ------------------------------------------- | ------------------- | -------- |
| PENDING                      |                                             |                     | WAITING  |
| RUNNING                      | none yet, or "waiting"                      |                     | WAITING  |
| RUNNING                      | any other                                   |                     | RUNNING  |
| SUCCEEDED                    |                                             |                     | FINISHED |
| any that is over             | "ended" with finished (stopped too late)    |                     | FINISHED |
| any that is over             | "ended" with diverged, or exit code 3       |                     | DIVERGED |
| STOPPED                      | any other                                   |                     | STOPPED  |
| FAILED                       | "ended" with stopped, or exit code 130      |                     | STOPPED  |
| FAILED                       | "failed", or exit code 1 or 2               |                     | FAILED   |
| FAILED, no runtime environment |                                           |                     | FAILED   |
| FAILED                       | any other: killed, its node gone            |                     | LOST     |
| unknown: another cluster's   |                                             | "running"           | LOST     |
| unknown                      |                                             | finished, ...       | as it is |

LOST and STOPPED runs go on with ``raysim submit --resume``, and so do FAILED ones when the reason is gone. Rows that
read run.json serve runs in storage that the laptop reaches.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from raysim.service import lines
from raysim.service.cluster import Job, Jobs

WAITING, RUNNING, FINISHED = "WAITING", "RUNNING", "FINISHED"
DIVERGED, STOPPED, FAILED, LOST = "DIVERGED", "STOPPED", "FAILED", "LOST"

RESUMABLE = (STOPPED, FAILED, LOST)
CODES = {FINISHED: 0, DIVERGED: 3, STOPPED: 130, FAILED: 1, LOST: 1}
"""Exit codes of a command that watches a run to its end, as ``raysim run`` has them."""

TAILS = (5, 500)
"""Lines of a log that are asked for: Ray tells at length of a node that died, after the job's last line."""

KEPT = ("round", "rounds", "checkpoint", "loss", "accuracy")
"""Facts of an attempt that hold until the next one has begun."""

_NEVER_BEGAN = (
    "RUNTIME_ENV_SETUP_FAILURE",
    "JOB_SUPERVISOR_ACTOR_START_TIMEOUT",
    "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE",
)


@dataclass(frozen=True)
class Run:
    """A run as `raysim runs` and `raysim status` tell of it.

    Args:
        id: of its latest job.
        state: see the table above.
        folder: where it writes.
        facts: the job's last line, or run.json.
        job: the job, None if the cluster does not know it.
    """

    id: str
    state: str
    folder: str
    facts: dict[str, Any] = field(default_factory=dict)
    job: Job | None = None

    @property
    def base(self) -> str:
        """What its submissions have in common: the run's own id."""
        return base_of(self.id)

    @property
    def rounds(self) -> str:
        """Rounds done, of how many."""
        done, of = self.facts.get("round"), self.facts.get("rounds")
        if of is None and self.job:
            of = self.job.metadata.get("rounds")
        return "" if of is None else f"{done or 0}/{of}"

    @property
    def error(self) -> str:
        """Why it failed or was lost, in lines; empty if it was not."""
        if self.state not in (FAILED, LOST):
            return ""
        if self.facts.get("event") == "failed":
            return "\n".join(filter(None, (self.facts.get("text"), self.facts.get("traceback", "").rstrip())))
        return self.lost if self.state == LOST else (self.job.message if self.job else "")

    @property
    def lost(self) -> str:
        """What became of a run that is lost."""
        if self.job is None:
            return (
                "run.json says that it runs. If a cluster that is up still has it, it is not lost: raysim runs says "
                "so. Let it go on only if none has: it would be taken from the driver that has it."
            )
        code = self.job.code
        if code is not None and (code < 0 or code > 128):
            return f"Its driver was killed by signal {-code if code < 0 else code - 128}."
        last = (self.job.message or "Its driver is gone.").strip().splitlines()
        return last[0]


def base_of(id: str) -> str:
    """The run that a submission belongs to: the id without the number of the attempt."""
    base, dot, number = id.rpartition(".")
    return base if dot and number.isdigit() else id


def state_of(job: Job, facts: dict[str, Any]) -> str:
    """A run's state.

    Args:
        job: its job.
        facts: the job's last line.
    """
    event = facts.get("event")
    if not job.over:
        return RUNNING if job.status == "RUNNING" and event not in (None, "waiting") else WAITING
    if job.status == "SUCCEEDED":
        return FINISHED
    ended = facts.get("status") if event == "ended" else None
    if ended == "finished":
        return FINISHED
    if ended == "diverged" or job.code == 3:
        return DIVERGED
    if job.status == "STOPPED" or ended == "stopped" or job.code == 130:
        return STOPPED
    return FAILED if event == "failed" or job.code in (1, 2) or job.error in _NEVER_BEGAN else LOST


def run_of(cluster: Jobs, job: Job) -> Run:
    """A run from its job and the end of the job's log."""
    facts = next((found for tail in TAILS if (found := lines.last(cluster.log(job, tail)))), {})
    return Run(
        job.id, state_of(job, facts), facts.get("folder") or job.metadata.get("folder", ""), facts, job
    )


def found(cluster: Jobs, id: str) -> Run | None:
    """A run in its latest attempt, or in the one that is named: ID.1, ID.2; None if the cluster knows no such run.

    An attempt that has not come to a round yet stands where the one before it ended.

    Args:
        cluster: where it is.
        id: the run's.
    """
    tries = attempts(cluster.jobs(), base_of(id))
    if base_of(id) != id:
        tries = [job for job in tries if attempt(job.id) <= attempt(id)]
        if not tries or attempt(tries[-1].id) != attempt(id):
            return None
    if not tries:
        return None
    run = run_of(cluster, tries[-1])
    for job in reversed(tries[:-1]):
        if run.facts.get("round") is not None:
            break
        before = run_of(cluster, job).facts
        run = replace(
            run, facts={k: before[k] for k in KEPT if before.get(k) is not None} | _known(run.facts)
        )
    return run


def _known(facts: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in facts.items() if value is not None}


def stored(folder: str, status: dict[str, Any]) -> Run:
    """A run that no cluster knows, from its folder's run.json."""
    kept = {"finished": FINISHED, "diverged": DIVERGED, "stopped": STOPPED}
    return Run(folder, kept.get(status.get("status", ""), LOST), folder, status)


def attempts(jobs: Iterable[Job], base: str) -> list[Job]:
    """All submissions of a run, the latest last."""
    mine = [job for job in jobs if base_of(job.id) == base]
    return sorted(mine, key=lambda job: attempt(job.id))


def attempt(id: str) -> int:
    """Number of a submission: 1 for the first."""
    return 1 if base_of(id) == id else int(id.rpartition(".")[2])
