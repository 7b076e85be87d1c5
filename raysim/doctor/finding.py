"""What the doctor answers, and how it is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

GB = 1e9


@dataclass(frozen=True)
class Finding:
    """An answer of the doctor.

    Args:
        level: "ok", "warning" (slower or less than it could be) or "problem" (something will not work).
        name: what was looked at.
        what: what was found.
        advice: what to do about it; empty if nothing.
    """

    level: Literal["ok", "warning", "problem"]
    name: str
    what: str
    advice: str = ""


def asked(check: Callable[[], Finding], name: str = "") -> Finding:
    """A check's finding; a check that fails itself is a problem, not a traceback."""
    try:
        return check()
    except Exception as error:  # whatever it is, the other checks still have something to say
        name = name or check.__name__.replace("_", " ")
        return Finding(
            "problem", name, f"cannot be examined: {type(error).__name__}: {error}", "Reinstall raysim."
        )


def report(findings: list[Finding]) -> Any:
    """Findings for rich to print."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    colour = {"ok": "green", "warning": "yellow", "problem": "bold red"}
    for f in findings:
        text = Text(f.what)
        if f.advice:
            text.append(f"\n{f.advice}", style="italic")
        table.add_row(Text(f.level, style=colour[f.level]), f.name, text)
    return table
