"""A study on a cluster: every variant with every seed is a run of its own, and all of them lie in one folder."""

from __future__ import annotations

from pathlib import Path

from raysim.service import submitting
from raysim.service.cluster import Jobs
from raysim.service.submitting import Submitted
from raysim.study import Study


def submit(
    cluster: Jobs, study: Study, storage: str | None = None, code: Path | None = None
) -> list[Submitted]:
    """Submit those runs of a study that have not been.

    Args:
        cluster: where to.
        study: it.
        storage: folder of runs, an absolute path on the cluster or a URL; the study's is in it, under its name.
        code: a folder of the user's own that goes along with each.

    Raises:
        ConfigError: parts of it exist in Python only, or the cluster refuses it.
    """
    runs = [(name, s.replaced(name=f"{study.name}-{name}")) for _, name, s in study.experiments()]
    return [
        submitting.submit(cluster, simulation, storage, code, name=f"{study.name}/{name}")
        for name, simulation in runs
    ]


def root_of(study: Study, storage: str | None) -> str:
    """The folder of a study's runs."""
    return f"{submitting.root_of(storage)}/{study.name}"
