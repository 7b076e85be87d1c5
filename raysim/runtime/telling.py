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
        self.events: list[dict[str, Any]] = []  # none that somebody has seen: long runs tell millions
        self.stopping = False
        self._forgotten = 0

    def events_since(self, number: int) -> list[dict[str, Any]]:
        """Events after the first ``number``, which are forgotten: whoever asks has them."""
        del self.events[: max(0, number - self._forgotten)]
        self._forgotten = max(self._forgotten, number)
        return self.events[:]

    def stop(self) -> None:
        """End after the round in progress, with a checkpoint."""
        self.stopping = True

    def _tell(self, kind: str, **facts: Any) -> dict[str, Any]:
        event = {"kind": kind, **facts}
        if self.watch:
            self.watch(event)
        else:
            self.events.append(event)
        return event

    @contextmanager
    def _warnings_told(self) -> Any:
        """Pass warnings on as events, those before an error too: an actor's standard error is far from the user."""
        caught: list[warnings.WarningMessage] = []
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("default")
                yield
        finally:
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
