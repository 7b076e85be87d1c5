"""Result: what a run came to, in memory and read back from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor, nn

from raysim.core.plugin import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from raysim.simulation import Simulation


class Result:
    """Metrics, final model and figures of a run.

    Args:
        simulation: the experiment.
        status: "finished", "diverged" or "stopped".
        rows: metrics, one dictionary per evaluated round.
        x_P: final parameters, [P].
        folder: the run's folder, a path or a URL as text; None if it wrote nothing.
        seconds: spent in rounds.
    """

    def __init__(
        self,
        simulation: Simulation,
        status: str,
        rows: list[dict[str, Any]],
        x_P: Tensor,
        folder: Path | str | None = None,
        seconds: float = 0.0,
    ) -> None:
        self.simulation, self.status, self.x_P, self.folder, self.seconds = (
            simulation,
            status,
            x_P,
            folder,
            seconds,
        )
        self.metrics = pd.DataFrame(rows)

    def model(self) -> nn.Module:
        """The network with the final weights."""
        module = self.simulation.initial_model()
        trainable = [p for p in module.parameters() if p.requires_grad]
        with torch.no_grad():
            for p, part in zip(trainable, torch.split(self.x_P, [p.numel() for p in trainable]), strict=True):
                p.copy_(part.view_as(p))
        return module

    def plot(self, metric: str = "loss", against: str | list[str] = "round") -> Figure:
        """Learning curves of a metric, one panel for each quantity it is drawn against.

        Args:
            metric: a column of ``metrics``.
            against: columns for the horizontal axis: "round", "bits_up", "client_updates", "seconds".

        Raises:
            ConfigError: no such column.
        """
        from raysim.report.plots import curves

        return curves({self.label: self.metrics}, metric, [against] if isinstance(against, str) else against)

    @property
    def label(self) -> str:
        """Name of the run in figures and tables."""
        name = self.folder.name if isinstance(self.folder, Path) else (self.folder or "").rpartition("/")[2]
        return name or self.simulation.name or type(self.simulation.rule).__name__

    def save_figures(self) -> list[Path | str]:
        """Write the learning curves into the run's folder; returns the files."""
        from raysim.report.plots import overview
        from raysim.runtime import folder as folders

        if self.folder is None:
            raise ConfigError(
                "This run has no folder for figures. Give run() one, or save plot()'s figure yourself."
            )
        figure = overview({self.label: self.metrics})
        return [folders.save_figure(self.folder, "learning_curve.png", figure)]

    @classmethod
    def read(cls, folder: str | Path) -> Result:
        """The result of a run from its folder, finished or not.

        Args:
            folder: a path or a URL.

        Raises:
            ConfigError: no run there, or no checkpoint yet.
        """
        from raysim.runtime import checkpoint, folder as folders
        from raysim.simulation import Simulation

        place = folders.located(folder)
        status = folders.read_status(place)
        with folders.at_hand(place) as path:
            last = checkpoint.latest(path)
            if last is None:
                raise ConfigError(
                    f"The run in {place} has written no checkpoint yet (status: {status['status']})."
                )
            simulation = Simulation.from_yaml(folders.read_experiment(path))
            rows, x_P = folders.read_metrics(path), last.server().x_P
        return cls(simulation, status["status"], rows, x_P, place, status["seconds"])
