"""What tests on a real cluster share."""

import time

import pytest

from raysim.cli import main
from raysim.service import states
from raysim.service.cluster import Cluster
from tests.service.heads import head

PATIENCE = 400  # seconds: a busy machine imports torch for a minute


class Laptop:
    """Commands as a user gives them, and what they print."""

    def __init__(self, capsys):
        self.capsys = capsys

    def __call__(self, *arguments, code=0):
        """A command's output."""
        with pytest.raises(SystemExit) as end:
            main([str(a) for a in arguments])
        out, err = self.capsys.readouterr()
        assert end.value.code == code, (arguments, end.value.code, out, err)
        return out if code != 2 else err

    def until(self, id, *wanted, seen=lambda run: True):
        """A run, once it is in one of these states (and more, if asked)."""
        cluster, end = Cluster(), time.monotonic() + PATIENCE
        while time.monotonic() < end:
            run = states.run_of(cluster, cluster.job(id))
            if run.state in wanted and seen(run):
                return run
            over = run.job.over and run.state not in wanted
            assert not over, (run.state, run.facts, run.job.message)
            time.sleep(0.3)
        raise AssertionError(f"{id} is {run.state}: {run.facts}")


@pytest.fixture(scope="session")
def cluster():
    """One head node with a token, for all tests whose point is not the head itself."""
    with head() as found:
        yield found


@pytest.fixture
def laptop(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return Laptop(capsys)
