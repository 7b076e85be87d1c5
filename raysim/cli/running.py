"""Commands that run experiments: ``run``, ``resume``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raysim.cli.common import DIVERGED, STOPPED, read

if TYPE_CHECKING:
    from raysim.result import Result

Experiment = Annotated[Path, typer.Argument(help="Experiment as YAML, such as examples/quickstart.yaml.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print only the run's folder.")]


def run(
    experiment: Experiment,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[PATH=VALUE]...", help="Changes: local.optimizer.lr=0.05")
    ] = None,
    folder: Annotated[
        str | None, typer.Option(help="Where to write, a path or a URL (s3://...); runs/NAME-N if not given.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Run an experiment."""
    simulation = read(experiment, overrides)
    _finish(simulation.run("auto" if folder is None else folder, progress=not quiet), quiet)


def resume(
    folder: Annotated[
        str, typer.Argument(help="Folder of a run that was stopped or died, a path or a URL (s3://...).")
    ],
    quiet: Quiet = False,
) -> None:
    """Continue a run from its last checkpoint."""
    from raysim.runtime.drive import resume as again

    _finish(again(folder, progress=not quiet), quiet)


def _finish(result: Result, quiet: bool) -> None:
    """The exit code says how the run ended."""
    if quiet:
        typer.echo(str(result.folder))
    code = {"finished": 0, "diverged": DIVERGED}.get(result.status, STOPPED)
    if code:
        raise typer.Exit(code)
