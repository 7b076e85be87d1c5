"""The command line.

Experiments: ``raysim run | resume | plot | compare``; choosing hyper-parameters: ``sweep | regimes``; what there is:
``describe | doctor | bench | plan``; jobs on a cluster: ``submit | runs | status | logs | stop | fetch``.

A command is one small function that imports what it needs when it is called, so that ``--help`` stays quick.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import typer

from raysim.cli.common import FAILED, REFUSED
from raysim.cli.jobs import fetch, logs, runs, status, stop, submit
from raysim.cli.machine import bench, describe, doctor
from raysim.cli.pictures import compare, plot
from raysim.cli.plan import plan
from raysim.cli.running import resume, run
from raysim.cli.tuning import regimes, sweep

app = typer.Typer(
    help="Simulate distributed and federated optimisation with thousands of clients.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
COMMANDS = (
    *(run, resume, plot, compare, sweep, regimes, describe, doctor, bench, plan),
    *(submit, runs, status, logs, stop, fetch),
)
for command in COMMANDS:
    app.command()(command)


def _explained(error: Exception) -> int | None:
    """Exit code of an error whose message says all a user needs; None if it needs a traceback."""
    from raysim.core.host import ClientError
    from raysim.core.interfaces import DataError
    from raysim.core.plugin import ConfigError
    from raysim.runtime.checkpoint import CheckpointError
    from raysim.runtime.fleet import HostLost

    if isinstance(error, (ConfigError, DataError, CheckpointError)):
        return REFUSED
    return FAILED if isinstance(error, (ClientError, HostLost)) else None


def _plain_warning(message: Any, *_: Any, **__: Any) -> str:
    return f"warning: {message}\n"


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: in place of the process's own.
    """
    warnings.formatwarning = _plain_warning
    try:
        app(arguments)
    except Exception as error:
        code = _explained(error)
        if code is None:
            raise
        typer.echo(f"raysim: {error}", err=True)
        sys.exit(code)
