"""The command line: ``raysim run | resume | plot | compare | describe | doctor | bench``.

A command is one small function that imports what it needs when it is called, so that ``--help`` stays quick.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from raysim.result import Result
    from raysim.simulation import Simulation
    from raysim.study import Panel, Study

REFUSED, FAILED, DIVERGED, STOPPED = 2, 1, 3, 130
"""Exit codes: not runnable as written, client code failed, loss not finite, Ctrl-C."""

app = typer.Typer(
    help="Simulate distributed and federated optimisation with thousands of clients.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Experiment = Annotated[Path, typer.Argument(help="Experiment as YAML, such as examples/quickstart.yaml.")]
Runs = Annotated[list[Path], typer.Argument(help="Folders of runs.")]
Metric = Annotated[str, typer.Option(help="Column of the metrics: loss, accuracy, train_loss, ...")]
Out = Annotated[Path | None, typer.Option(help="File to draw into (.png, .pdf, .svg).")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print only the run's folder.")]


@app.command()
def run(
    experiment: Experiment,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[PATH=VALUE]...", help="Changes: local.optimizer.lr=0.05")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Where to write; runs/NAME-N if not given.")] = None,
    quiet: Quiet = False,
) -> None:
    """Run an experiment."""
    simulation = _read(experiment, overrides)
    _finish(simulation.run("auto" if folder is None else folder, progress=not quiet), quiet)


@app.command()
def resume(
    folder: Annotated[Path, typer.Argument(help="Folder of a run that was stopped or died.")],
    quiet: Quiet = False,
) -> None:
    """Continue a run from its last checkpoint."""
    from raysim.runtime.drive import resume as again

    _finish(again(folder, progress=not quiet), quiet)


@app.command()
def plot(
    runs: Annotated[list[Path] | None, typer.Argument(help="Folders of runs.")] = None,
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

        simulation = _read(partition)
        data = simulation.data.load()
        figure = picture(data, simulation.partition.split(data, simulation.seed))
        _save(figure, out or Path(f"{partition.stem}-partition.png"))
        return
    if topology is not None:
        _save(_topology_picture(_read(topology)), out or Path(f"{topology.stem}-topology.png"))
        return
    if not runs:
        raise _config_error(
            "There is nothing to plot. Name folders of runs, or use --partition or --topology "
            "experiment.yaml."
        )
    from raysim.report.plots import curves

    _save(curves(_tables(runs), metric, against.split(",")), out or Path(f"{metric}.png"))


@app.command()
def compare(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN]... | STUDY.yaml [PATH=VALUE]...", help="Folders of runs, or a study."),
    ] = None,
    metric: Annotated[str | None, typer.Option(help="Column of the metrics; loss if not given.")] = None,
    against: Annotated[str, typer.Option(help="Columns for the horizontal axes.")] = "round,bits_up",
    out: Out = None,
    rules: Annotated[bool, typer.Option("--rules", help="Run the study of all rules.")] = False,
    seeds: Annotated[int | None, typer.Option(min=1, help="Study: runs of each variant.")] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Study: where to write; runs/NAME if not given.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Study: run anew what has run already.")] = False,
) -> None:
    """Compare runs, or run and compare the variants of a study: a table and a figure."""
    from raysim.study import Panel, Study

    given = list(runs or [])
    if rules:
        study = Study.of_rules(given, seeds)
    elif given and Path(given[0]).suffix in (".yaml", ".yml"):
        path = Path(given[0])
        study = Study.from_yaml(_text(path), given[1:], path.stem, seeds)
    elif given:
        _compare_runs([Path(name) for name in given], metric or "loss", against, out)
        return
    else:
        raise _config_error("There is nothing to compare. Name folders of runs, a study (YAML), or --rules.")
    panels = (Panel(metric, tuple(against.split(","))),) if metric else None
    _compare_variants(study, folder, fresh, panels, out)


@app.command()
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


@app.command()
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


@app.command()
def bench(
    workloads: Annotated[
        list[str] | None, typer.Argument(help="mlp cnn many full gossip leader ring null registered; all.")
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


def _compare_runs(folders: list[Path], metric: str, against: str, out: Path | None) -> None:
    from rich.console import Console

    from raysim.report.plots import curves
    from raysim.report.tables import comparison, comparison_table

    tables = _tables(folders)
    table = comparison(tables, metric)
    figure = curves(tables, metric, against.split(","))
    Console(highlight=False).print(comparison_table(table, metric))
    _save(figure, out or Path(f"compare-{metric}.png"))


def _compare_variants(
    study: Study, folder: Path | None, fresh: bool, panels: tuple[Panel, ...] | None, out: Path | None
) -> None:
    from rich.console import Console

    from raysim.report.study import study_table

    try:
        study.run("auto" if folder is None else folder, fresh=fresh, tell=typer.echo)
    except KeyboardInterrupt as stop:
        typer.echo(stop)
        raise typer.Exit(STOPPED) from None
    Console(highlight=False).print(study_table(study.table(), study.name))
    _save(study.figure(panels), out or Path(f"{study.name}.png"))


# ---- what commands share ----------------------------------------------------------------------


def _read(path: Path, overrides: list[str] | None = None) -> Simulation:
    """The experiment in a file, named after it."""
    from raysim.simulation import Simulation
    from raysim.study import is_study

    text = _text(path)
    if is_study(text):
        raise _config_error(
            f"{path} is a study: several variants of one experiment. Run and compare them with: raysim compare {path}"
        )
    return Simulation.from_yaml(text, list(overrides or []), name=path.stem)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a text file"
        raise _config_error(f"The experiment {path} cannot be read: {reason}.") from None


def _topology_picture(simulation: Simulation) -> Figure:
    """The graph of the experiment's rule, over as many clients as take part in a round."""
    from raysim.core.interfaces import Topology
    from raysim.report.topology import picture

    rule = simulation.rule
    found = [value for value in vars(rule).values() if isinstance(value, Topology)]
    if not found:
        raise _config_error(f"The rule {type(rule).__name__} of this experiment has no topology to draw.")
    clients = getattr(simulation.partition, "clients", None)
    if not isinstance(clients, int):
        clients = simulation.load()[1].number
    return picture(found[0], simulation.cohort_size(clients))


def _tables(folders: list[Path]) -> dict[str, DataFrame]:
    """Metrics of runs, by folder name (by path where names meet), finished or not."""
    import pandas as pd

    from raysim.runtime.folder import read_metrics, read_status

    tables = {}
    for path in folders:
        read_status(path)  # says so if this is no run
        name = path.resolve().name
        if sum(other.resolve().name == name for other in folders) > 1:
            name = str(path)
        tables[name] = pd.DataFrame(read_metrics(path))
    return tables


def _save(figure: Figure, path: Path) -> None:
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:  # ValueError: an ending that is no image format
        raise _config_error(f"The figure cannot be written to {path}: {error}.") from None
    typer.echo(str(path))


def _finish(result: Result, quiet: bool) -> None:
    """The exit code says how the run ended."""
    if quiet:
        typer.echo(str(result.folder))
    code = {"finished": 0, "diverged": DIVERGED}.get(result.status, STOPPED)
    if code:
        raise typer.Exit(code)


def _config_error(text: str) -> Exception:
    from raysim.core.plugin import ConfigError

    return ConfigError(text)


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


if __name__ == "__main__":
    main()
