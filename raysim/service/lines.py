"""The lines of a job's log, read back: one JSON object each, with time, run, event, round and loss.

Whatever else is in the log (Ray's own first lines, a traceback of the interpreter) is passed on as it is.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from raysim.report.units import shown
from raysim.runtime import telemetry

_RAYS_OWN = re.compile(r"Running entrypoint for job |\S+ \S+\tINFO job_manager\.py")


def parsed(line: str) -> dict[str, Any] | None:
    """A line that the job wrote; None for any other."""
    if not line.startswith("{"):
        return None
    try:
        return telemetry.read(line)
    except ValueError:
        return None


def last(text: str) -> dict[str, Any]:
    """The last line that the job wrote; each says all that is known by then. Empty if there is none."""
    return next((found for line in reversed(text.splitlines()) if (found := parsed(line))), {})


class Reader:
    """Makes lines to print of a log that comes in chunks, cut anywhere.

    Args:
        raw: pass the job's lines on as JSON, and nothing else.
    """

    def __init__(self, raw: bool = False) -> None:
        self.raw, self._rest = raw, ""

    def read(self, text: str) -> list[str]:
        """Lines that are whole now."""
        *whole, self._rest = (self._rest + text).split("\n")
        return [line for line in map(self._line, whole) if line is not None]

    def close(self) -> list[str]:
        """A last line without an end."""
        return self.read("\n") if self._rest else []

    def _line(self, line: str) -> str | None:
        found = parsed(line)
        if self.raw:
            return line if found else None
        if found:
            return readable(found)
        return None if _RAYS_OWN.match(line) or not line.strip() else line


def readable(line: dict[str, Any]) -> str:
    """One of the job's lines for people: local time, then what happened."""
    try:
        time = datetime.fromisoformat(str(line.get("time"))).astimezone().strftime("%H:%M:%S")
    except ValueError:
        time = "--:--:--"
    event = line["event"]
    if event in ("round", "resumed", "checkpoint", "prepared"):
        words = _TELLS[event](line)
    else:
        more = line.get("text") or line.get("status")
        words = f"{event}: {more}" if more else event
    trace = f"\n{line['traceback'].rstrip()}" if line.get("traceback") else ""
    return f"{time}  {words}{trace}"


def _round(line: dict[str, Any]) -> str:
    numbers = [
        f"{n} {shown(n, line[n])}" for n in ("loss", "accuracy") if isinstance(line.get(n), (int, float))
    ]
    return "  ".join([f"round {line['round']}/{line.get('rounds', '?')}", *numbers])


_TELLS = {
    "round": _round,
    "resumed": lambda line: f"continuing after round {line['round']}",
    "checkpoint": lambda line: f"checkpoint of round {line['round']}",
    "prepared": lambda line: (
        f"prepared {line.get('clients', '?')} clients, {line.get('parameters', '?')} parameters"
    ),
}
