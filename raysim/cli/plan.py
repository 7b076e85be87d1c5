"""The command ``plan``: what an experiment would take on a cluster."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raysim.cli.common import config_error, read

if TYPE_CHECKING:
    from raysim.plan.case import Prediction
    from raysim.plan.facts import Calibration
    from raysim.plan.machines import Cluster
    from raysim.simulation import Simulation


def plan(
    experiment: Annotated[Path, typer.Argument(help="Experiment as YAML, such as examples/quickstart.yaml.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[PATH=VALUE]...", help="Changes: partition.clients=200")
    ] = None,
    cluster: Annotated[
        Path | None, typer.Option(help="File for `ray up`, or a RayCluster; this machine if not given.")
    ] = None,
    nodes: Annotated[int, typer.Option(min=1, help="Workers.")] = 1,
    worker_type: Annotated[str | None, typer.Option(help="Which of the file's worker types.")] = None,
    actors_per_gpu: Annotated[int, typer.Option(min=1, help="Actors that share a GPU.")] = 1,
    actors: Annotated[
        int | None, typer.Option(min=1, help="Actors on each node, in place of one per core or GPU.")
    ] = None,
    clients: Annotated[
        float | None, typer.Option(min=1, help="Clients, such as 1e6, each like the measured ones.")
    ] = None,
    speed: Annotated[
        float, typer.Option(min=1e-6, help="How many times faster a core or GPU there is than one here.")
    ] = 1.0,
    gbits: Annotated[float | None, typer.Option(min=1e-6, help="Network, Gbit/s each way.")] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="GPUs of a worker.")] = None,
    cpus: Annotated[float | None, typer.Option(min=0, help="CPUs of a worker.")] = None,
    memory_gb: Annotated[float | None, typer.Option(min=1e-6, help="Memory of a worker.")] = None,
    gpu_memory_gb: Annotated[float | None, typer.Option(min=1e-6, help="Memory of a GPU.")] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(help="Read the calibration from here if it exists, else write it here (.json)."),
    ] = None,
    ray: Annotated[bool, typer.Option(help="Also measure calls to client actors, which starts Ray.")] = True,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Predict what an experiment takes on a cluster, from a short calibration on this machine."""
    from raysim.plan import machines, planning

    simulation = read(experiment, overrides)
    if clients == math.inf:
        raise config_error("--clients is infinite: give a number, such as 1e6.")
    known = {
        "gbits": gbits,
        "gpus": gpus,
        "cpus": cpus,
        "memory_gb": memory_gb,
        "gpu_memory_gb": gpu_memory_gb,
    }
    if cluster is None:
        if nodes > 1 or worker_type or any(v is not None for v in known.values()):
            raise config_error(
                "Nodes, worker types and machines belong to a cluster: say --cluster cluster/aws.yaml."
            )
        where = planning.on_this_machine()
    else:
        where = machines.read(cluster, nodes, worker_type, **known)
    per_node = actors or planning.actors_per_node(simulation, where, actors_per_gpu)
    facts = _calibration(simulation, calibration, ray, json)
    number = None if clients is None else round(clients)
    found = planning.predicted(simulation, facts, where, per_node=per_node, clients=number, speed=speed)
    _print(found, facts, where, json)
    planning.refuse(found)


def _calibration(simulation: Simulation, file: Path | None, ray: bool, quiet: bool) -> Calibration:
    from raysim.plan.calibration import calibrate
    from raysim.plan.facts import Calibration

    if file is not None and file.exists():
        return Calibration.read(file, simulation)
    tell: Any = (lambda _: None) if quiet else (lambda line: typer.echo(line, err=True))
    facts = calibrate(simulation, ray=ray, tell=tell)
    if file is not None:
        facts.save(file)
    return facts


def _print(found: Prediction, facts: Calibration, where: Cluster, json: bool) -> None:
    import json as format

    from rich.console import Console
    from rich.table import Table

    from raysim.plan import planning

    if json:
        typer.echo(format.dumps(planning.as_json(found), indent=1))
        return
    plural = "" if where.nodes == 1 else "s"
    typer.echo(
        f"Predicted for {where.nodes} node{plural} of {where.worker.name}; calibrated on {facts.processor}, "
        f"{facts.device}."
    )
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, text in planning.rows(found):
        table.add_row(name, text)
    Console(highlight=False).print(table)
    for note in found.notes:
        typer.echo(f"- {note}")
