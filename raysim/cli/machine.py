"""Commands about what there is and what this machine can do: ``describe``, ``doctor``, ``bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
    address: Annotated[str | None, typer.Option(help="Ask this Ray cluster (auto or host:port).")] = None,
) -> None:
    """Check whether this machine is fit, and say what to do."""
    from rich.console import Console

    from raysim import doctor as surgery

    findings = surgery.examine(address)
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
