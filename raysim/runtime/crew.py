"""Client actors on Ray: started where there is room for them, asked, and replaced when they die."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import ray
from ray.exceptions import (
    GetTimeoutError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
)

from raysim.core.host import Setup
from raysim.core.placement import Placement
from raysim.core.plugin import ConfigError
from raysim.runtime import capacity, placing
from raysim.runtime.client_actor import ClientActor
from raysim.runtime.fleet import HostLost
from raysim.runtime.post import Post

LOST = (RayActorError, ObjectLostError, OutOfMemoryError)


class Crew:
    """Client actors.

    Args:
        setup: the experiment, ready to run.
        placement: how many actors, on what.
        tell: called with what is waited for.
        reserved: room for them; None to reserve it.
    """

    def __init__(
        self,
        setup: Setup,
        placement: Placement,
        tell: Callable[[str], Any],
        reserved: placing.Reserved | None,
    ) -> None:
        self.setup, self.placement, self.tell = setup, placement, tell
        self.form: str | None = None
        data = setup.dataset
        arrays = (data.x_train, data.y_train, data.x_test, data.y_test)
        self._arrays = [ray.put(np.ascontiguousarray(a)) for a in arrays]
        nothing = np.empty(0)
        light = replace(data, x_train=nothing, y_train=nothing, x_test=nothing, y_test=nothing, groups=None)
        self._light = ray.put(replace(setup, dataset=light))
        self.reserved = reserved or placing.reserve(placement, tell)
        self.post = Post(placement.actors)
        self.near = [False] * placement.actors  # whether an actor is on this node, and sees its files
        try:
            self.actors = [self._start(i) for i in range(placement.actors)]
            self._await(list(range(placement.actors)))
        except BaseException:
            self.close()
            raise

    def _start(self, i: int) -> Any:
        options = placing.options(self.placement, self.reserved, i)
        actor = ray.remote(**options)(ClientActor)
        return actor.remote(self._light, self.placement.threads, self.placement.gpus_per_actor, *self._arrays)

    def _await(self, indices: list[int]) -> None:
        """Wait until these actors have started, and share a mailbox with those on this machine."""
        if not indices:
            return
        calls = [self.actors[i].node.remote() for i in indices]
        seconds = placing.patience(self.placement)
        until = time.monotonic() + seconds
        while len(ray.wait(calls, num_returns=len(calls), timeout=capacity.EACH)[0]) < len(calls):
            if time.monotonic() > until:
                raise RuntimeError(
                    f"Client actors have not started within {seconds:.0f} s. See `ray status` for what the cluster "
                    "waits for, and the nodes' logs."
                )
            self.tell(f"waiting for client actors to start; {until - time.monotonic():.0f} s at most")
        places = self._get(calls)
        here = ray.get_runtime_context().get_node_id()
        for i, place in zip(indices, places, strict=True):
            self.near[i] = place == here
            self.post.share(i, lambda address, i=i: self._get(self.actors[i].join.remote(address)))

    def _get(self, refs: Any, timeout: float | None = None) -> Any:
        """Results; the client's own error where there was one, one of LOST where actors died.

        Raises:
            ConfigError: an actor cannot start.
        """
        timeout = timeout or self.placement.timeout
        try:
            return ray.get(refs, timeout=timeout)
        except RayTaskError as error:
            raise error.cause from None
        except RayActorError as error:
            if reason := placing.unfit(error):
                raise ConfigError(f"Client actors cannot start: {reason}") from None
            raise
        except GetTimeoutError:
            raise RuntimeError(
                f"Client actors did not answer within {timeout:.0f} s. If a round takes so long, raise "
                "placement.timeout; otherwise see `ray status` for what the cluster waits for."
            ) from None

    def set_form(self, form: str) -> None:
        """Train in this form from here on."""
        self.form = form
        self._form_again(list(range(len(self.actors))))

    def replace_dead(self, error: BaseException) -> str:
        """Start new actors in place of those that do not answer, until all do; says which."""
        replaced: set[int] = set()
        until = time.monotonic() + placing.patience(self.placement)
        while True:
            dead = self._dead()
            for i in dead:
                ray.kill(self.actors[i])
                self.actors[i] = self._start(i)
            replaced.update(dead)
            try:
                self._await(dead)
                self._form_again(dead)
                # Rows that others keep are from a round half done: a first round done again must not start from them.
                self._get([actor.load_rows.remote([]) for actor in self.actors])
                break
            except LOST:  # a node that Ray does not yet know to be gone has taken the new one as well
                if time.monotonic() > until:
                    raise HostLost(
                        f"Client actors died ({type(error).__name__}), and so do new ones."
                    ) from None
                time.sleep(1)
        kind, names = type(error).__name__, ", ".join(map(str, sorted(replaced)))
        if not names:
            return f"Client actors were out of reach for a moment ({kind})."
        return f"Client actor{'s' if len(replaced) > 1 else ''} {names} died ({kind}) and started anew."

    def _dead(self) -> list[int]:
        """Actors that died, or do not answer in time: those that are at work get it all at once."""
        calls = [actor.pid.remote() for actor in self.actors]
        answered, _ = ray.wait(calls, num_returns=len(calls), timeout=placing.START)
        return [i for i, call in enumerate(calls) if call not in answered or not _alive(call)]

    def _form_again(self, indices: list[int]) -> None:
        if self.form:
            self._get([self.actors[i].set_form.remote(self.form) for i in indices])

    def close(self) -> None:
        """End the actors and give their resources back."""
        with contextlib.suppress(RayError):  # the cluster is gone, and they with it
            for actor in getattr(self, "actors", []):
                ray.kill(actor)
        self.reserved.release()


def _alive(call: Any) -> bool:
    """Whether the actor that was called, and has answered, still is."""
    try:
        ray.get(call)
    except LOST:
        return False
    return True
