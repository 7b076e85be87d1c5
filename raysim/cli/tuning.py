"""Commands that choose hyper-parameters: ``sweep`` and ``regimes``."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from raysim.cli.common import DIVERGED, FAILED, STOPPED, Out, config_error, save, text

if TYPE_CHECKING:
    from tuning.sweep import Sweep

_ROWS = 40  # configurations to print


def sweep(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SWEEP.yaml | FOLDER", help="An experiment with a block `sweep`, or its folder."
        ),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[PATH=VALUE]...", help="Changes: rounds=50 sweep.samples=8")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Where to write; runs/sweeps/NAME if not given.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what is in the folder.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Remove what is in the folder first.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the sweep's folder.")] = False,
) -> None:
    """Run an experiment over values of its fields, and write the best one back."""
    found = _opened(source, list(overrides or []), folder, resume)
    try:
        found.run(resume=resume, fresh=fresh, progress=not quiet)
    except KeyboardInterrupt:
        typer.echo(
            f"The sweep was stopped. Go on with it:\n  raysim sweep --resume {quote(str(found.folder))}",
            err=True,
        )
        raise typer.Exit(STOPPED) from None
    _close(found, quiet)


def regimes(
    experiment: Annotated[
        Path, typer.Argument(help="Experiment with a block regimes, such as examples/regimes.yaml.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[PATH=VALUE]...", help="Changes: regimes.seeds=5")
    ] = None,
    out: Out = None,
    table: Annotated[Path | None, typer.Option(help="Also write the table here (.csv).")] = None,
    folder: Annotated[Path | None, typer.Option(help="Keeps what was tried; runs/NAME if not given.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Try anew what was tried before.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not tell of each step-size search.")] = False,
) -> None:
    """Find where a larger batch, more clients or more local steps stop to help."""
    from rich.console import Console

    from tuning.regimes import Regimes
    from tuning.regimes.plots import require_format

    for path in (out, table):
        if path is not None and not path.parent.is_dir():
            raise config_error(f"There is no folder {path.parent} to write {path.name} into. Make it first.")
    if out is not None:
        require_format(out)
    probe, console = Regimes.from_yaml(text(experiment), overrides, experiment.stem), Console(highlight=False)
    try:
        tell = None if quiet else lambda line: typer.echo(line, err=True)
        probe.run(tell, folder or Path("runs") / probe.name, fresh)
    except KeyboardInterrupt:
        if probe.findings:
            console.print(probe.printed())
        typer.echo("The probe was stopped; the same command goes on, and fits regimes at the end.", err=True)
        raise typer.Exit(STOPPED) from None
    console.print(probe.printed())
    typer.echo(probe.text())
    if table is not None:
        try:
            probe.table().to_csv(table, index=False)
        except OSError as error:
            raise config_error(f"The table cannot be written to {table}: {error}.") from None
        typer.echo(str(table))
    save(probe.figure(), out or Path(f"{experiment.stem}.png"))


def _opened(source: Path, overrides: list[str], folder: Path | None, resume: bool) -> Sweep:
    """The sweep in a file, or in a folder that holds one."""
    from tuning.plan import Plan
    from tuning.sweep import Sweep

    if not source.is_dir():
        plan = Plan.from_yaml(text(source), overrides, source.stem)
        return Sweep(plan, "auto" if folder is None else folder)
    if not resume:
        raise config_error(
            f"{source} is a folder. Go on with the sweep in it: raysim sweep --resume {quote(str(source))}"
        )
    if overrides or folder:
        raise config_error("A sweep goes on as it was begun: leave out changes and --folder.")
    return Sweep.read(source)


def _close(found: Sweep, quiet: bool) -> None:
    """Table, files, and an exit code that says whether there is a best configuration."""
    from rich.console import Console

    if quiet:
        typer.echo(str(found.folder))
    else:
        Console(highlight=False).print(found.printed(_ROWS))
        more = len(found.table()) - _ROWS
        typer.echo(f"and {more} more in {found.folder}/trials.parquet") if more > 0 else None
        typer.echo(f"figure  {found.folder}/sweep.png")
    lost = len(found.failed)
    if lost and not quiet:
        typer.echo(f"{lost} of {len(found.runs)} runs failed; --resume runs them again.", err=True)
    if found.folder is not None and (found.folder / "best.yaml").exists():
        if not quiet:
            typer.echo(f"best    raysim run {quote(str(found.folder / 'best.yaml'))}")
    elif not lost:
        typer.echo("Every configuration diverged. Try smaller step sizes.", err=True)
        raise typer.Exit(DIVERGED)
    if lost:
        raise typer.Exit(FAILED)
