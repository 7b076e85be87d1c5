"""Commands that look at results: ``plot``, ``compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raysim.cli.common import STOPPED, Out, config_error, read, save, tables, text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from raysim.simulation import Simulation
    from raysim.study import Study

Metric = Annotated[str, typer.Option(help="Column of the metrics: loss, accuracy, train_loss, ...")]


def plot(
    runs: Annotated[list[str] | None, typer.Argument(help="Folders of runs, paths or URLs.")] = None,
    metric: Metric = "loss",
    against: Annotated[
        str, typer.Option(help="Columns for the horizontal axes: round,bits_up,seconds")
    ] = "round",
    partition: Annotated[
        Path | None, typer.Option(help="Draw instead who holds which examples in this experiment (YAML).")
    ] = None,
    topology: Annotated[
        Path | None, typer.Option(help="Draw instead who talks to whom in this experiment (YAML).")
    ] = None,
    out: Out = None,
) -> None:
    """Draw learning curves, who holds which examples, or who talks to whom."""
    if partition is not None:
        from raysim.report.partition import picture

        simulation = read(partition)
        data = simulation.data.load()
        figure = picture(data, simulation.partition.split(data, simulation.seed))
        save(figure, out or Path(f"{partition.stem}-partition.png"))
        return
    if topology is not None:
        save(_topology_picture(read(topology)), out or Path(f"{topology.stem}-topology.png"))
        return
    if not runs:
        raise config_error(
            "There is nothing to plot. Name folders of runs, or use --partition or --topology "
            "experiment.yaml."
        )
    from raysim.report.plots import curves

    save(curves(tables(runs), metric, against.split(",")), out or Path(f"{metric}.png"))


def compare(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN]... | STUDY.yaml [PATH=VALUE]...", help="Folders of runs, or a study."),
    ] = None,
    metric: Annotated[str | None, typer.Option(help="Column of the metrics; loss if not given.")] = None,
    against: Annotated[str, typer.Option(help="Columns for the horizontal axes.")] = "round,bits_up",
    out: Out = None,
    rules: Annotated[bool, typer.Option("--rules", help="Run the study of all rules.")] = False,
    attacks: Annotated[
        bool, typer.Option("--attacks", help="Run the study of robust rules under attack.")
    ] = False,
    seeds: Annotated[int | None, typer.Option(min=1, help="Study: runs of each variant.")] = None,
    folder: Annotated[
        str | None,
        typer.Option(help="Study: where its runs are, a path or a URL; runs/NAME if not given."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Study: run anew what has run already.")] = False,
    ended: Annotated[
        bool, typer.Option("--ended", help="Study: run nothing, compare what has ended, wherever it ran.")
    ] = False,
) -> None:
    """Compare runs, or run and compare the variants of a study: a table and a figure."""
    from rich.console import Console

    from raysim.study import Panel, Study

    given = list(runs or [])
    if rules:
        study = Study.of_rules(given, seeds)
    elif attacks:
        study = Study.of_attacks(given, seeds)
    elif given and Path(given[0]).suffix in (".yaml", ".yml"):
        path = Path(given[0])
        study = Study.from_yaml(text(path), given[1:], path.stem, seeds)
    elif given:
        _compare_runs(given, metric or "loss", against, out)
        return
    else:
        raise config_error(
            "There is nothing to compare. Name folders of runs, a study (YAML), --rules or --attacks."
        )
    panels = (Panel(metric, tuple(against.split(","))),) if metric else None
    if ended:
        study.read(folder or "auto", tell=typer.echo)
    else:
        _run(study, folder or "auto", fresh)
    Console(highlight=False).print(study.printed(panels))
    save(study.figure(panels), out or Path(f"{study.name}.png"))


def _compare_runs(folders: list[str], metric: str, against: str, out: Path | None) -> None:
    from rich.console import Console

    from raysim.report.plots import curves
    from raysim.report.tables import comparison, comparison_table

    metrics = tables(folders)
    table = comparison(metrics, metric)
    figure = curves(metrics, metric, against.split(","))
    Console(highlight=False).print(comparison_table(table, metric))
    save(figure, out or Path(f"compare-{metric}.png"))


def _run(study: Study, folder: str, fresh: bool) -> None:
    try:
        study.run(folder, fresh=fresh, tell=typer.echo)
    except KeyboardInterrupt as stop:
        typer.echo(stop)
        raise typer.Exit(STOPPED) from None


def _topology_picture(simulation: Simulation) -> Figure:
    """The graph of the experiment's rule, over as many clients as take part in a round."""
    from raysim.core.interfaces import Topology
    from raysim.report.topology import picture

    rule = simulation.rule
    found = [value for value in vars(rule).values() if isinstance(value, Topology)]
    if not found:
        raise config_error(f"The rule {type(rule).__name__} of this experiment has no topology to draw.")
    clients = getattr(simulation.partition, "clients", None)
    if not isinstance(clients, int):
        clients = simulation.load()[1].number
    return picture(found[0], simulation.cohort_size(clients))
