"""Commands about what there is and what this machine can do: ``describe``, ``doctor``, ``bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raysim.cli.common import config_error, read


def describe(
    name: Annotated[
        str | None, typer.Argument(help="A plug-in, or Simulation, Local, Execution, Placement.")
    ] = None,
    yaml: Annotated[
        bool, typer.Option("--yaml", help="Print it as YAML to paste into an experiment.")
    ] = False,
) -> None:
    """List everything there is, or all about one thing."""
    from rich.console import Console

    from raysim import describe as known

    if name is None:
        Console(highlight=False).print(known.listing())
    elif yaml:
        typer.echo(known.snippet(known.find(name)), nl=False)
    else:
        Console(highlight=False).print(known.card(known.find(name)))


def doctor(
    address: Annotated[str | None, typer.Option(help="Examine this Ray cluster (auto or host:port).")] = None,
    experiment: Annotated[Path | None, typer.Option(help="Also whether this experiment fits there.")] = None,
    storage: Annotated[
        str | None, typer.Option(help="Also whether all its nodes see this path or URL of runs.")
    ] = None,
) -> None:
    """Check whether this machine, or a cluster, is fit, and say what to do."""
    from rich.console import Console

    from raysim import doctor as surgery

    simulation = None if experiment is None else read(experiment)
    if address is None and simulation is not None:
        address = simulation.placement.address
    if address is None and (experiment or storage):
        raise config_error(
            "--experiment and --storage are about a cluster: say which, as --address HOST:PORT."
        )
    if storage is not None and "://" not in storage and not Path(storage).is_absolute():
        raise config_error(
            f"--storage is {storage!r}, which is another place on every node: give an absolute path."
        )
    findings = surgery.examine(address, simulation, storage)
    Console(highlight=False).print(surgery.report(findings))
    if any(f.level == "problem" for f in findings):
        raise typer.Exit(1)


def bench(
    workloads: Annotated[
        list[str] | None, typer.Argument(help="Such as: mlp cnn many full; all if none is named.")
    ] = None,
    actors: Annotated[int, typer.Option(help="Ray client actors to measure with.")] = 2,
    blocks: Annotated[bool, typer.Option("--blocks", help="Measure block sizes, in process.")] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the measurements here.")
    ] = None,
) -> None:
    """Measure client updates per second beside a hand-written PyTorch loop and the machine's sgemm rate."""
    import json

    from raysim.bench import suite

    names = suite.known(list(workloads or []))
    tell = lambda line: typer.echo(line, err=True)
    rows = list(suite.blocks(names, tell) if blocks else suite.suite(names, actors, tell))
    typer.echo(suite.markdown(rows))
    if json_file is not None:
        json_file.write_text(json.dumps(rows, indent=1))
