"""A run that is taken some rounds at a time, by somebody who looks at it in between: a trial of a sweep."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysim.core.clients import Clients
from raysim.core.server import Server
from raysim.runtime import checkpoint
from raysim.runtime.coordinator import Coordinator
from raysim.runtime.outcome import Outcome

if TYPE_CHECKING:
    from raysim.simulation import Simulation


class Stepwise(Coordinator):
    """Runs one experiment a few rounds at a time, without a folder; the numbers are those of a run in one go.

    Args:
        simulation: the experiment.
    """

    def __init__(self, simulation: Simulation) -> None:
        super().__init__(simulation, None)
        self.until = 0
        self.kept: tempfile.TemporaryDirectory[str] | None = None

    def begin(self) -> None:
        """Load the data, start the hosts and evaluate the initial model."""
        with self._warnings_told():
            self.server = self._prepare()

    def advance(self, rounds: int) -> Outcome:
        """Run on.

        Args:
            rounds: at most so many.

        Returns:
            What the run came to so far: "stopped" where rounds are left.
        """
        self.until, self.stopping = self.server.round + rounds, rounds <= 0
        outcome = self._rounds(self.server)
        self.server = outcome.server
        return outcome

    def _after(self, server: Server, clients: Clients) -> None:
        super()._after(server, clients)
        self.stopping = self.stopping or server.round >= self.until

    def save(self, root: Path) -> None:
        """Write where the run stands.

        Args:
            root: a folder of its own.
        """
        facts: dict[str, Any] = {"form": self.form, "block": self.block, "rows": self.rows}
        checkpoint.save(
            root, self.server, self.fleet.save_rows, facts | {"tally": dataclasses.asdict(self.tally)}
        )

    def load(self, root: Path) -> None:
        """Go on from where another run of the same shape stood.

        Args:
            root: what ``save`` wrote.
        """
        found = checkpoint.latest(root)
        if found is None:
            raise checkpoint.CheckpointError(f"{root} holds no checkpoint.")
        self._drop()
        self.kept = tempfile.TemporaryDirectory(prefix="raysim-")
        copy = Path(shutil.copytree(found.folder, Path(self.kept.name) / found.folder.name))
        self.last = checkpoint.Checkpoint(copy, found.manifest)  # to go back to, when that of others is gone
        self.server = self._restore()

    def _restore(self) -> Server:
        server = super()._restore()
        if self.last is not None:
            self.rows = list(self.last.manifest["rows"])
        return server

    def _drop(self) -> None:
        if self.kept is not None:
            self.kept.cleanup()
        self.kept = None

    def close(self) -> None:
        """Give hosts back, and what was kept on the disk."""
        self._drop()
        if hasattr(self, "fleet"):
            self.fleet.close()
