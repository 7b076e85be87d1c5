"""What a run shows while it goes: a bar on a terminal, a few lines in a log file, and a closing table."""

from __future__ import annotations

import time
import warnings
from collections import deque
from typing import TYPE_CHECKING, Any

from raysim.report.units import rate, shown

if TYPE_CHECKING:
    from raysim.result import Result

_HERTZ = 4  # redraws of the bar per second; one costs about a millisecond
_PAUSE = 0.1  # seconds between updates of its numbers: short rounds come by the thousand
_LINES = 10  # lines of a run whose output is no terminal
_WINDOW = 50  # rounds over which the speed is averaged


class Progress:
    """Shows a run's events as they come; a context manager around the run.

    On a terminal it draws a bar with round, loss, accuracy, client updates per second and the time left;
    elsewhere it prints a line at most every tenth of the rounds. Each warning is told once.

    Args:
        rounds: communication rounds of the run.
        shown: False shows nothing; warnings then become Python warnings.
    """

    def __init__(self, rounds: int, shown: bool) -> None:
        self.rounds, self.shown = rounds, shown
        self.latest: dict[str, float] = {}
        self._warned: set[str] = set()
        self._speed: deque[tuple[float, float]] = deque(maxlen=_WINDOW)
        self._line_due = 0
        self._drawn = 0.0
        self._bar: Any = None
        self._task: Any = None
        if shown:
            from rich.console import Console

            self.console = Console(highlight=False)

    def __enter__(self) -> Progress:
        """Start the bar."""
        if self.shown and self.console.is_interactive:
            self._bar = _bar(self.console)
            self._task = self._bar.add_task("starting", total=self.rounds, facts="starting")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._draw()
            self._bar.stop()

    def watch(self, event: dict[str, Any]) -> None:
        """Take in one event of the coordinator."""
        kind = event["kind"]
        if kind == "warning":
            self._warn(event["text"])
        elif kind in ("round", "metrics"):
            self._measure(event)
        elif self.shown and kind == "prepared":
            self._print(_prepared(event))
        elif self.shown and kind == "timed":
            tried = ", ".join(f"{form} {shown('seconds', s)}" for form, s in event["seconds"].items())
            self._print(f"Timed the first block: {tried}. Running as {event['form']}.")
        elif self.shown and kind == "waiting":
            self._print(event["text"])
        elif self.shown and kind == "resumed":
            self._resume(event["round"])

    def close(self, result: Result) -> None:
        """Print the closing table."""
        if self.shown:
            from raysim.report.tables import advice, closing

            self.console.print(closing(result))
            for line in advice(result).splitlines():  # a command stays in one piece, to be copied
                self.console.print(line, style="bold", markup=False, soft_wrap=line.startswith("  "))

    def _measure(self, event: dict[str, Any]) -> None:
        """Remember the numbers of a round or an evaluation; draw or print them when that is due."""
        self.latest |= {k: v for k, v in event.items() if k != "kind"}
        if event["kind"] == "metrics" or not self.shown:
            return
        self._speed.append((event["seconds"], event["client_updates"]))
        if self._bar is None:
            self._line(event["round"])
        elif time.monotonic() - self._drawn >= _PAUSE:
            self._draw()

    def _line(self, round: int) -> None:
        """A line for the log, now and then."""
        if round >= self._line_due or round == self.rounds:
            self._line_due = round - round % -(-self.rounds // _LINES) + -(-self.rounds // _LINES)
            self._print(f"round {round}/{self.rounds}  {self._facts()}")

    def _draw(self) -> None:
        round = int(self.latest.get("round", 0))
        self._drawn = time.monotonic()
        self._bar.update(self._task, completed=round, description=f"round {round}", facts=self._facts())

    def _facts(self) -> str:
        """Loss, accuracy and speed, those that are known."""
        parts = [f"{n} {shown(n, self.latest[n])}" for n in ("loss", "accuracy") if n in self.latest]
        if self._speed:
            (first_s, first), (last_s, last) = self._speed[0], self._speed[-1]
            if len(self._speed) == 1:
                first_s, first = 0.0, 0.0
            if last_s > first_s:
                parts.append(f"{rate((last - first) / (last_s - first_s))} client updates/s")
        return "  ".join(parts)

    def _resume(self, round: int) -> None:
        self._print(f"Continuing after round {round}.")
        self.latest["round"] = round
        if self._bar is not None:
            self._bar.reset(self._task, completed=round, description=f"round {round}")

    def _warn(self, text: str) -> None:
        """Tell a warning, the first time it comes."""
        if text in self._warned:
            return
        self._warned.add(text)
        if self.shown:
            self._print(f"warning: {text}", style="yellow")
        else:
            warnings.warn(text, stacklevel=3)

    def _print(self, text: str, style: str | None = None) -> None:
        """A line above the bar; not wrapped, as terminals do that and log files need it not."""
        self.console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _bar(console: Any) -> Any:
    """Bar, round, numbers and time left."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress as Bar, TextColumn, TimeRemainingColumn

    columns = [
        TextColumn("rounds"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}"),
        TimeRemainingColumn(compact=True),
    ]
    return Bar(*columns, console=console, refresh_per_second=_HERTZ)


def _prepared(event: dict[str, Any]) -> str:
    """The run in one line, when everything is in place."""
    who = f"{event['clients']:,} clients"
    if event["cohort"] < event["clients"]:
        who += f" ({event['cohort']:,} a round)"
    return (
        f"{who}, {event['examples']:,} training examples, {event['parameters']:,} parameters; "
        f"computed {event['form']} in blocks of {event['block']} clients"
    )
