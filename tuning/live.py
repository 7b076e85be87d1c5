"""What a sweep shows while it goes: a table on a terminal, a line per run elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from raysim.report.units import duration
from tuning import table as tables

if TYPE_CHECKING:
    from tuning.plan import Plan
    from tuning.records import Run

_ROWS = 8  # configurations in the table
_HERTZ = 4


class Watch:
    """Shows how far a sweep is; a context manager around it.

    Args:
        plan: the sweep.
        runs: those that have ended; the sweep adds to them.
        shown: whether to draw and print.
        tell: called with each line in place of printing.
    """

    def __init__(
        self, plan: Plan, runs: list[Run], shown: bool = False, tell: Callable[[str], Any] | None = None
    ) -> None:
        self.plan, self.runs, self.shown, self.tell = plan, runs, shown, tell
        configurations = len(plan.points) or plan.samples
        self.total = configurations * len(plan.seeds)
        self.before, self.begun = len(self._ended), time.monotonic()
        self.under_way: dict[str, float] = {}
        self._live: Any = None
        self._said: set[str] = set()
        if shown:
            from rich.console import Console

            self.console = Console(highlight=False)

    def __enter__(self) -> Watch:
        """Start the table."""
        if self.shown and self.console.is_terminal:
            from rich.live import Live

            self._live = Live(console=self.console, get_renderable=self.drawn, refresh_per_second=_HERTZ)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the table away: the closing one follows."""
        if self._live is not None:
            self._live.transient = True
            self._live.stop()
            self._live = None

    # ---- what there is to tell ---------------------------------------------------------------------------------

    def once(self, text: str) -> None:
        """A line about the sweep as a whole, the first time it comes."""
        if text not in self._said:
            self._said.add(text)
            self._print(text)

    def running(self, name: str, share: float, runs: int = 1) -> None:
        """A trial of some runs has come so far, from 0 to 1."""
        self.under_way[name] = min(share, 1.0) * runs

    def gone(self, name: str) -> None:
        """A trial has ended, its runs with it."""
        self.under_way.pop(name, None)

    def ended(self, run: Run) -> None:
        """A run has ended; it is in the list already."""
        text = tables.line(run, self.plan)
        if run.status == "failed":
            self._print(f"{text}\n{run.error.rstrip()}")
        elif self._live is None:
            self._print(f"{len(self._ended)}/{self.total}  {text}{self._left()}")

    # ---- drawing -----------------------------------------------------------------------------------------------

    @property
    def _ended(self) -> list[Run]:
        return [run for run in self.runs if run.status != "failed"]

    def drawn(self) -> Any:
        """The best configurations so far, and how far the sweep is."""
        from rich.console import Group
        from rich.text import Text

        parts: list[Any] = [Text(self.progress(), style="bold")]
        if self.runs:
            table = tables.summarised(self.runs, self.plan)
            parts.insert(0, tables.printed(table.head(_ROWS), self.plan, so_far=True))
        return Group(*parts)

    def progress(self) -> str:
        """One line: runs done, under way, diverged, failed, and the time left."""
        counts = {status: sum(run.status == status for run in self.runs) for status in ("diverged", "failed")}
        text = f"{len(self.runs)} of {self.total} runs"
        text += f", {len(self.under_way)} under way" if self.under_way else ""
        text += "".join(f", {n} {status}" for status, n in counts.items() if n)
        return f"{text}, {duration(time.monotonic() - self.begun)}{self._left()}"

    def _left(self) -> str:
        """Time left, if the rest goes as what went: ", 40 s left"."""
        done = len(self.runs) - self.before + sum(self.under_way.values())
        rest = self.total - self.before - done
        if done <= 0 or rest <= 0:
            return ""
        return f", {duration((time.monotonic() - self.begun) / done * rest)} left"

    def _print(self, text: str) -> None:
        if self.tell is not None:
            self.tell(text)
        elif self.shown:
            self.console.print(text, markup=False, soft_wrap=True)
