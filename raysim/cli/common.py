"""What commands share: reading experiments, saving figures, saying what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from raysim.simulation import Simulation

REFUSED, FAILED, DIVERGED, STOPPED = 2, 1, 3, 130
"""Exit codes: not runnable as written, client code failed, loss not finite, Ctrl-C."""

SEVERAL = {
    "study": ("a study: several variants of one experiment", "Run and compare them", "compare"),
    "sweep": ("a sweep: one experiment over values of its fields", "Run it", "sweep"),
    "regimes": (
        "a probe of scaling: one experiment over batch sizes, clients or local steps",
        "Run it",
        "regimes",
    ),
}
"""Blocks of files that hold more than one experiment: what such a file is, and the command that takes it."""

Out = Annotated[Path | None, typer.Option(help="File to draw into (.png, .pdf, .svg).")]


def read(path: Path, overrides: list[str] | None = None) -> Simulation:
    """The experiment in a file, named after it."""
    from raysim import spec
    from raysim.simulation import Simulation

    content = text(path)
    tree = spec.read(content, [])
    for block, (kind, do, command) in SEVERAL.items():
        if block in tree:
            raise config_error(f"{path} is {kind}. {do} with: raysim {command} {path}")
    return Simulation.from_yaml(content, list(overrides or []), name=path.stem)


def text(path: Path) -> str:
    """What a file holds."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a text file"
        raise config_error(f"The experiment {path} cannot be read: {reason}.") from None


def tables(folders: list[str]) -> dict[str, DataFrame]:
    """Metrics of runs, by folder name (by path or URL where names meet), finished or not."""
    import pandas as pd

    from raysim.runtime.folder import read_metrics, read_status
    from raysim.runtime.storage import located

    places = [located(folder) for folder in folders]
    last = lambda place: (place.resolve() if isinstance(place, Path) else Path(place)).name
    tables = {}
    for place in places:
        read_status(place)  # says so if this is no run
        name = last(place)
        if sum(last(other) == name for other in places) > 1:
            name = str(place)
        tables[name] = pd.DataFrame(read_metrics(place))
    return tables


def save(figure: Figure, path: Path) -> None:
    """Write a figure, and say where."""
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:  # ValueError: an ending that is no image format
        raise config_error(f"The figure cannot be written to {path}: {error}.") from None
    typer.echo(str(path))


def config_error(text: str) -> Exception:
    """An error of the user's, to raise."""
    from raysim.core.plugin import ConfigError

    return ConfigError(text)
