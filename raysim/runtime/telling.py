"""What a run tells while it goes: events that somebody watches or asks for, and when to stop."""

from __future__ import annotations

import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Watch = Callable[[dict[str, Any]], None]


class Telling:
    """Keeps events, and may be told to stop.

    Args:
        watch: called with each event, in process.
    """

    def __init__(self, watch: Watch | None = None) -> None:
        self.watch = watch
        self.events: list[dict[str, Any]] = []
        self.stopping = False

    def events_since(self, number: int) -> list[dict[str, Any]]:
        """Events after the first ``number``."""
        return self.events[number:]

    def stop(self) -> None:
        """End after the round in progress, with a checkpoint."""
        self.stopping = True

    def _tell(self, kind: str, **facts: Any) -> None:
        event = {"kind": kind, **facts}
        self.events.append(event)
        if self.watch:
            self.watch(event)

    @contextmanager
    def _warnings_told(self) -> Any:
        """Pass warnings on as events: an actor's standard error is far from the user."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            yield
        for w in caught:
            if issubclass(w.category, (UserWarning, ResourceWarning)):
                self._tell("warning", text=str(w.message))


@contextmanager
def interruptible(stop: Callable[[], Any]) -> Iterator[None]:
    """The first Ctrl-C ends the run after its round, with a checkpoint; the second is the usual one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def once(*_: Any) -> None:
        signal.signal(signal.SIGINT, before)
        stop()

    signal.signal(signal.SIGINT, once)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
