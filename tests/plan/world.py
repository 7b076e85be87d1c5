"""A machine with a clock of its own: the runtime as it is, on actors whose every second is known.

Coordinator, fleet, actors and hosts run their own code in this process. Training, evaluating, ordering a cohort,
calling an actor and copying a byte take the seconds that ``Machine`` says, on a clock that nothing else moves; actors
work at the same time and share cores. So the truth about a round is known to the last digit, wherever tests run.
"""

from dataclasses import dataclass, field, fields, is_dataclass
from types import SimpleNamespace

import numpy as np
import ray

from raysim.core import cohorts
from raysim.core.cohort import Cohort
from raysim.core.host import Host
from raysim.plan import calibration, calls, recorder
from raysim.runtime import client_actor, coordinator, crew, mailbox, placing, post, ray_fleet


@dataclass
class Machine:
    """Seconds that things take, and how they are shared."""

    cores: int = 2
    client: float = 2e-3  # local training of one client
    chunk: float = 5e-3  # evaluating a chunk of the test set
    order: float = 2e-6  # a client in the coordinator's plan of a round
    call: float = 1e-3  # waiting for answers, whoever gives them
    actor: float = 0.6e-3  # each call, half on its way there and half on its way back
    near_byte: float = 2e-10  # by shared memory
    far_byte: float = 3e-9  # by Ray
    slow: tuple[float, ...] = (1.05, 1.2)  # how much slower one and two actors are than this process
    disturbed: int = 0  # every so many exchanges somebody else's work takes as long again


@dataclass(eq=False)
class Job:
    """A call that an actor was given: when it came, what it takes, what it waits for, when it was done."""

    actor: object
    come: float
    work: float
    value: object
    after: list = field(default_factory=list)
    done: float | None = None


class World:
    """A clock, and the calls under way."""

    def __init__(self, machine):
        self.machine, self.now, self.jobs = machine, 0.0, []
        self.account = None  # of the actor whose code runs
        self.exchanges = 0

    def perf_counter(self):
        return self.now

    monotonic = perf_counter

    def spend(self, seconds):
        if self.account is None:
            self.now += seconds
        else:
            self.account += seconds

    # ---- what stands for Ray -----------------------------------------------------------------------------------------

    def as_ray(self):
        context = SimpleNamespace(get_node_id=lambda: "here")
        return SimpleNamespace(
            put=lambda value: self._copied(value),
            get=self.get,
            wait=self.wait,
            kill=lambda actor: None,
            remote=lambda **_: lambda cls: SimpleNamespace(remote=lambda *given: Handle(self, cls(*given))),
            get_runtime_context=lambda: context,
            cloudpickle=ray.cloudpickle,
        )

    def _copied(self, value):
        self.spend(self.machine.far_byte * size(value))
        return value

    def called(self, handle, method, given):
        """A call on its way: the coordinator's half of it is over when this returns."""
        self.now += self.machine.actor / 2 + self.machine.far_byte * sum(
            size(a) for a in given if not isinstance(a, Job)
        )
        after = [a for a in given if isinstance(a, Job)]
        given = [a.value if isinstance(a, Job) else a for a in given]
        self.account = self.machine.far_byte * sum(
            size(job.value) for job in after
        )  # rows from another actor
        value = getattr(handle.actor, method)(*given)
        work, self.account = self.account, None
        self.jobs.append(Job(handle, self.now, work, value, after))
        return self.jobs[-1]

    def get(self, refs, timeout=None):
        """Answers, once all are there."""
        several = refs if isinstance(refs, list) else [refs]
        self._settle()
        for job in several:
            self.now = (
                max(self.now, job.done) + self.machine.actor / 2 + self.machine.far_byte * size(job.value)
            )
        self.now += self.machine.call * bool(several)
        return [job.value for job in several] if isinstance(refs, list) else refs.value

    def wait(self, refs, num_returns, timeout):
        """Those whose answers are there: all, after as long as that takes."""
        self._settle()
        self.now = max([self.now, *(job.done for job in refs)])
        return refs, []

    def _settle(self):
        """Let actors work off their calls, each in order, all at once as far as there are cores."""
        left, clock = list(self.jobs), 0.0
        work = {job: job.work for job in left}
        while left:
            first = list({job.actor: job for job in reversed(left)}.values())
            ready = [j for j in first if all(a.done is not None for a in j.after)]
            running = [j for j in ready if j.come <= clock]
            coming = min((j.come for j in ready if j.come > clock), default=np.inf)
            if not running:
                clock = coming
                continue
            rate = min(1.0, self.machine.cores / len(running)) / self._slow(len(running))
            step = min(coming - clock, min(work[j] for j in running) / rate)
            clock += step
            for job in running:
                work[job] -= step * rate
                if work[job] <= 1e-12:
                    job.done = clock
                    left.remove(job)
        self.jobs = []

    def _slow(self, running):
        return self.machine.slow[min(running, self.machine.cores, len(self.machine.slow)) - 1]


class Handle:
    """An actor, in this process."""

    def __init__(self, world, actor):
        self.world, self.actor = world, actor

    def __getattr__(self, name):
        return SimpleNamespace(remote=lambda *given: self.world.called(self, name, given))


def size(value):
    """Bytes of arrays inside a value."""
    if isinstance(value, (bytes, np.ndarray)):
        return len(value) if isinstance(value, bytes) else value.nbytes
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
    if is_dataclass(value) and not isinstance(value, type):
        inner = [getattr(value, f.name) for f in fields(value)]
    return sum(size(v) for v in inner)


def made(monkeypatch, **machine):
    """A world that the runtime and the calibration live in until the test ends."""
    world = World(Machine(**machine))
    seconds = world.machine
    train, put, plan, exchange = Cohort._train, mailbox.Mailbox.put, cohorts.plan, Host.exchange

    def trained(cohort, start, *given, **options):
        world.spend(seconds.client * len(cohort))
        return train(cohort, start, *given, **options)

    def posted(box, side, array):
        slip = put(box, side, array)
        world.spend(seconds.near_byte * array.nbytes * (slip is not None))
        return slip

    def planned(local, shards, ids, *given, **options):
        world.spend(seconds.order * len(ids))
        return plan(local, shards, ids, *given, **options)

    def exchanged(host, *given):
        before = world.now if world.account is None else world.account
        partial = exchange(host, *given)
        world.exchanges += 1
        if seconds.disturbed and world.exchanges % seconds.disturbed == 0:
            world.spend((world.now if world.account is None else world.account) - before)
        return partial

    monkeypatch.setattr(Cohort, "_train", trained)
    monkeypatch.setattr(Host, "exchange", exchanged)
    monkeypatch.setattr(
        Host,
        "evaluate",
        lambda host, x_P, chunks: world.spend(seconds.chunk * len(chunks)) or [(1.0, 0.5, 1)] * len(chunks),
    )
    monkeypatch.setattr(mailbox.Mailbox, "put", posted)
    for module in (cohorts, coordinator):
        monkeypatch.setattr(module, "plan", planned)
    for module in (calibration, calls, recorder, coordinator, crew):
        monkeypatch.setattr(module, "time", world)
    for module in (client_actor, crew, post, ray_fleet):
        monkeypatch.setattr(module, "ray", world.as_ray())
    for module, name, value in (
        (calibration, "ENOUGH", 0.0),
        (calls, "WORKED", (6, 6)),
        (calls, "REPEATS", 5),
    ):
        monkeypatch.setattr(module, name, value)  # what is the same every time need not be seen so often
    monkeypatch.setattr(placing, "connect", lambda placement: None)
    monkeypatch.setattr(placing, "reserve", lambda placement, tell: SimpleNamespace(release=lambda: None))
    monkeypatch.setattr(placing, "patience", lambda placement: 60.0)
    monkeypatch.setattr(placing, "options", lambda *_: {})
    return world
