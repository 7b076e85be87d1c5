"""A real autoscaling cluster on this machine: nodes are refused, come, are lost, go; the numbers never change."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest

from tests.cluster.fake_cloud import FakeCloud, node_type

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

MARKETS = {"cpu-spot": ("spot", 10), "cpu-on-demand": ("on-demand", 0)}
TYPES = {
    name: node_type(1, 3, labels={"ray.io/market-type": market}, priority=priority)
    for name, (market, priority) in MARKETS.items()
}


@pytest.fixture
def home():
    """A folder with a short path, for sockets live in it; empty again afterwards."""
    with tempfile.TemporaryDirectory(prefix="rc", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def test_a_run_gets_its_nodes_on_demand_loses_one_and_ends_in_the_same_bits(home):
    """No worker at first, and no spot to be had: Ray alone asks for it again and again. With cluster/fallback.py what

    the run waits for comes on demand; the loss of a node brings another one; when the run has ended they all go.
    """
    from tests.cluster.driver import experiment

    expected = experiment().run(None)
    with FakeCloud(home, 24150, TYPES, "tests.cluster.provider.NoSpot", idle=0.05) as cloud:
        code = "import sys; from tests.cluster.driver import main; main(*sys.argv[1:])"
        seen = cloud.run(code, cloud.address, home / "run", home / "cloud.yaml")
    assert seen["status"] == "finished"
    assert seen["before"] == [""]
    assert (seen["refused"], seen["alone"]) == (["cpu-spot"], [""])
    assert seen["after"] == ["", "on-demand", "on-demand"]  # head, the node that was left, the new one
    assert seen["left"] == [""]
    first, then = (json.loads((home / name).read_text()) for name in ("mark", "mark.after"))
    assert len(set(first)) == 2
    assert len(set(then)) == 2
    assert first[1] not in then
    assert seen["losses"] == expected.metrics["loss"].tolist()
    assert np.array_equal(np.load(home / "run.npy"), expected.x_P.numpy())
