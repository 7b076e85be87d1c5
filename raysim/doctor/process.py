"""Asking a program of its own, since Ray may hang or abort."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from typing import Any


class Silent(RuntimeError):
    """The program did not answer; the message is its last line, or how it ended."""


def answer(arguments: list[str], seconds: float, env: dict[str, str] | None = None) -> dict[str, Any]:
    """What a Python program prints as JSON after the word FOUND.

    Args:
        arguments: of the interpreter.
        seconds: that it has; then it is killed with all it started.
        env: its environment; None for this one.

    Raises:
        Silent: it failed, said nothing or took too long.
    """
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
            env=env,
        )
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise Silent(f"no answer within {seconds:g} s") from None
        errors.seek(0)
        said = [line for line in errors.read().splitlines() if line.strip()]
    found = next((line[5:] for line in output.splitlines() if line.startswith("FOUND")), None)
    if found is None:
        raise Silent(f"fails: {said[-1] if said else f'exit code {process.returncode}'}")
    return json.loads(found)
