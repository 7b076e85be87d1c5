"""Commands for runs on a cluster: ``submit``, ``runs``, ``status``, ``logs``, ``stop``, ``fetch``."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raysim.cli.common import REFUSED, config_error, read, text

if TYPE_CHECKING:
    from raysim.service.cluster import Cluster
    from raysim.service.states import Run
    from raysim.service.submitting import Submitted
    from raysim.simulation import Simulation

Address = Annotated[
    str | None, typer.Option(help="Dashboard of the cluster, http://127.0.0.1:8265; or set RAYSIM_ADDRESS.")
]
Id = Annotated[
    str,
    typer.Argument(help="A run's id, as raysim submit printed it; ID.2 is its second attempt.", metavar="ID"),
]


def submit(
    experiment: Annotated[
        str | None,
        typer.Argument(metavar="[EXPERIMENT.yaml]", help="Experiment or study as YAML; not with --resume."),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[PATH=VALUE]...", help="Changes: local.optimizer.lr=0.05")
    ] = None,
    address: Address = None,
    storage: Annotated[
        str | None,
        typer.Option(
            help="Folder of runs: s3://bucket/runs or a path on the cluster; ~/raysim-runs on its head."
        ),
    ] = None,
    code: Annotated[
        Path | None, typer.Option(help="Folder that goes along: data files and modules of your own.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Run it another time.")] = False,
    resume: Annotated[
        str | None, typer.Option(metavar="ID|FOLDER", help="Go on with a run that was stopped or lost.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it to its end.")] = False,
) -> None:
    """Submit an experiment or a study to a cluster, or let a run go on; prints its id."""
    from raysim import spec
    from raysim.service import submitting

    given = overrides or []
    if resume is not None:
        if storage or again:
            raise config_error("A run goes on where it was: leave out --storage and --again.")
        cluster = _cluster(address)
        done = submitting.resume(cluster, resume, [experiment, *given] if experiment else given, code)
    elif experiment is None:
        raise config_error("Name an experiment to submit, or a run to go on with: --resume ID")
    elif "study" in spec.read(text(Path(experiment)), []):
        if again or watch:
            raise config_error("A study is many runs: leave out --again and --watch. See them: raysim runs")
        _submit_study(Path(experiment), given, address, storage, code)
        return
    else:
        simulation = read(Path(experiment), given)
        cluster = _cluster(address)
        done = submitting.submit(cluster, simulation, storage, code, again)
        _caution(simulation, cluster, done)
    if done.already:
        typer.echo(done.already, err=True)
    typer.echo(done.id)
    if watch:
        _follow(cluster, done.id, False)
        raise typer.Exit(_code(cluster, done.id))


def _caution(simulation: Simulation, cluster: Cluster, done: Submitted) -> None:
    """Say what a run will not do that its experiment may be thought to ask for."""
    if simulation.placement.address:
        typer.echo(
            f"placement.address is not used: the run is on the cluster of {cluster.address}.", err=True
        )
    if not done.already and simulation.checkpoint_every == 0:
        typer.echo(
            "checkpoint_every is 0: if its driver or the head node dies, the run starts from round 0.",
            err=True,
        )


def _submit_study(
    file: Path, overrides: list[str], address: str | None, storage: str | None, code: Path | None
) -> None:
    from raysim.runtime.storage import is_url
    from raysim.service import studies
    from raysim.study import Study

    study = Study.from_yaml(text(file), overrides, file.stem)
    sent = studies.submit(_cluster(address), study, storage, code)
    for done in sent:
        typer.echo(done.id)
    old, root = sum(bool(done.already) for done in sent), studies.root_of(study, storage)
    typer.echo(f"{len(sent)} runs{f', {old} of them there already' if old else ''}: raysim runs", err=True)
    changes = "".join(f" {quote(change)}" for change in overrides)
    home = "~/" if root.startswith("~/") else ""  # which quotes would hide from the shell
    command = f"raysim compare {quote(str(file))}{changes} --ended --folder {home}{quote(root[len(home) :])}"
    where = "" if is_url(root) else ", on the cluster's head"
    typer.echo(f"Compare what has ended{where}: {command}", err=True)


def runs(address: Address = None) -> None:
    """List the runs that a cluster knows."""
    from raysim.service import states
    from raysim.service.submitting import since

    cluster = _cluster(address)
    jobs = cluster.jobs()
    found = [
        states.run_of(cluster, job)
        for job in jobs
        if states.attempts(jobs, states.base_of(job.id))[-1] is job
    ]
    if not found:
        typer.echo(f"No run has been submitted to {cluster.address}.")
        return
    rows = [("run", "state", "rounds", "loss", "since", "folder")]
    for run in found:
        assert run.job is not None, "it comes from a job"
        loss = _number("loss", run.facts.get("loss"))
        rows.append((run.id, run.state, run.rounds, loss, since(run.job), run.folder))
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:  # a line each, however long: to be read, and to be cut by other programs
        cells = [(str.rjust if 1 < i < 4 else str.ljust)(cell, wide[i]) for i, cell in enumerate(row)]
        typer.echo("  ".join(cells).rstrip())


def status(
    run: Annotated[str, typer.Argument(metavar="ID|URL", help="A run's id, or the URL of its folder.")],
    address: Address = None,
) -> None:
    """Say how a run is: its state, its last metrics, what it waits for, why it failed and how to go on."""
    from raysim.runtime.storage import is_url

    found = _stored(run, address) if is_url(run) else _latest(_cluster(address), run)
    for line in _told(found):
        typer.echo(line)


def logs(
    run: Id,
    address: Address = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the run ends.")] = False,
    json: Annotated[bool, typer.Option("--json", help="The lines as they are: JSON.")] = False,
) -> None:
    """Print what a run has logged, in its latest attempt; in its first: ID.1."""
    cluster = _cluster(address)
    found = _latest(cluster, run)
    if follow:
        _follow(cluster, found.id, json)
        return
    from raysim.service.lines import Reader

    assert found.job is not None, "the cluster knows it"
    reader = Reader(json)
    for line in [*reader.read(cluster.log(found.job)), *reader.close()]:
        typer.echo(line)


def stop(run: Id, address: Address = None) -> None:
    """End a run after its round in progress, with a checkpoint."""
    from raysim.service import packing, states

    cluster = _cluster(address)
    found = _latest(cluster, run)
    if found.state not in (states.WAITING, states.RUNNING):
        raise config_error(f"{found.id} is {found.state} already.")
    cluster.stop(found.id)
    how = (
        f"after its round in progress, with a checkpoint ({packing.GRACE // 60} minutes at most: then it is killed)"
        if found.state == states.RUNNING
        else "before it began"
    )
    typer.echo(f"{found.id} ends {how}. Go on with it: raysim submit --resume {found.base}")


def fetch(
    run: Annotated[str, typer.Argument(metavar="ID|URL", help="A run's id, or the URL of its folder.")],
    address: Address = None,
    to: Annotated[Path | None, typer.Option(help="Where to; runs/ID if not given.")] = None,
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="With checkpoints: the models, and what resuming needs.")
    ] = False,
) -> None:
    """Bring a run's folder here, for plot, compare and, with checkpoints, resume."""
    from raysim.runtime.storage import is_url
    from raysim.service import fetching

    if is_url(run):
        cluster = _cluster(address) if address else None
        folder, name = run, run.rstrip("/").rpartition("/")[2]
    else:
        cluster = _cluster(address)
        found = _latest(cluster, run)
        folder, name = found.folder, found.base
    typer.echo(str(fetching.fetch(cluster, folder, to or Path("runs") / name, checkpoints)))
    if not checkpoints:
        typer.echo("Its models, and what raysim resume needs, come with --checkpoints.", err=True)


def _cluster(address: str | None) -> Cluster:
    from raysim.service.cluster import Cluster

    return Cluster(address)


def _latest(cluster: Cluster, id: str) -> Run:
    """A run in its latest attempt; in the one that is named if its number is given."""
    from raysim.service import states

    found = states.found(cluster, id)
    if found is None:
        raise config_error(f"The cluster at {cluster.address} knows no run {id}. What it knows: raysim runs")
    return found


def _stored(url: str, address: str | None) -> Run:
    """A run behind a URL: as the cluster has it that is named, else as its folder has it."""
    from raysim.core.plugin import ConfigError
    from raysim.runtime import folder as folders
    from raysim.service import connection, states

    if address or connection.named():
        try:
            cluster = _cluster(address)
            jobs = [job for job in cluster.jobs() if job.metadata.get("folder") == url.rstrip("/")]
            if jobs:
                return _latest(cluster, states.base_of(jobs[-1].id))
        except ConfigError as error:  # a cluster that is gone is why one asks the folder
            typer.echo(f"{error}\nSo this is what the folder says:", err=True)
    rows = folders.read_metrics(url)
    at = folders.intact(url)
    return states.stored(url, folders.read_status(url) | (rows[-1] if rows else {}) | {"checkpoint": at})


def _follow(cluster: Cluster, id: str, raw: bool) -> None:
    from raysim.service.lines import Reader

    reader = Reader(raw)

    def tell(text: str) -> None:
        for line in reader.read(text):
            typer.echo(line)

    try:
        cluster.follow(id, tell)
        for line in reader.close():
            typer.echo(line)
    except KeyboardInterrupt:
        typer.echo(f"{id} goes on. See it: raysim logs {id} --follow; end it: raysim stop {id}", err=True)
        raise typer.Exit(0) from None


def _code(cluster: Cluster, id: str) -> int:
    """The exit code of a run that has ended, as `raysim run` would have had it."""
    from raysim.service import states

    run = _latest(cluster, id if "." in id else f"{id}.1")
    if run.error:
        typer.echo(run.error, err=True)
    return REFUSED if run.job and run.job.code == REFUSED else states.CODES.get(run.state, 0)


def _told(run: Run) -> list[str]:
    """A run in lines."""
    from raysim.service import states
    from raysim.service.submitting import since

    rows = [("run", run.id), ("state", f"{run.state} since {since(run.job)}" if run.job else run.state)]
    rows += [("rounds", run.rounds), ("folder", run.folder)]
    if run.state == states.WAITING:
        rows.append(("waits", run.facts.get("text") or "for Ray to start its driver"))
    metrics = ("loss", "accuracy", "train_loss")
    rows += [(name, _number(name, run.facts.get(name))) for name in metrics]
    if run.error:
        rows.append(("error", run.error.replace("\n", "\n" + " " * 12)))
    if run.state in states.RESUMABLE:
        at = run.facts.get("checkpoint")
        rows.append(("checkpoint", "none: it starts from round 0" if at is None else f"of round {at}"))
        rows.append(("go on", f"raysim submit --resume {run.base}"))
    return [f"{name.replace('_', ' '):<11} {value}" for name, value in rows if value]


def _number(name: str, value: Any) -> str:
    from raysim.report.units import shown

    return shown(name, value) if isinstance(value, (int, float)) else ""
