"""Real autoscaling clusters on this machine: nodes come, are lost, are refused, go; the numbers never change."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from tests.cluster.fake_cloud import FakeCloud, node_type
from tests.cluster.launchers import FOLDER

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

MARKETS = {"cpu-spot": ("spot", 10), "cpu-on-demand": ("on-demand", 0)}
TYPES = {
    name: node_type(2, 3, labels={"ray.io/market-type": market}, priority=priority)
    for name, (market, priority) in MARKETS.items()
}


@pytest.fixture
def home():
    """A folder with a short path, for sockets live in it; empty again afterwards."""
    with tempfile.TemporaryDirectory(prefix="rc", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def test_a_run_gets_its_nodes_loses_one_and_ends_in_the_same_bits(home):
    """No worker at first; the run's demand brings two; the loss of one brings a third."""
    from tests.cluster.driver import experiment

    expected = experiment().run(None)
    with FakeCloud(home, 24100, TYPES) as cloud:
        code = "import sys; from tests.cluster.driver import main; main(*sys.argv[1:])"
        seen = cloud.run(code, cloud.address, home / "run")
    assert seen["status"] == "finished"
    assert seen["before"] == 1
    assert sum(seen["after"]) == 3  # head, the node that was left, the new one
    first, then = (json.loads((home / name).read_text()) for name in ("mark", "mark.after"))
    assert len(set(first)) == 2
    assert len(set(then)) == 2
    assert first[1] not in then
    assert seen["losses"] == expected.metrics["loss"].tolist()
    assert np.array_equal(np.load(home / "run.npy"), expected.x_P.numpy())


WAITS = """
import json, ray, sys, time
ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
workers = lambda: [n["Labels"]["ray.io/market-type"] for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU")]
group = ray.util.placement_group([{"CPU": 1}] * 3)
placed = group.wait(float(sys.argv[1]))
markets, deadline = workers(), time.time() + float(sys.argv[2])
ray.util.remove_placement_group(group)
while workers() and time.time() < deadline:
    time.sleep(0.5)
print("said: " + json.dumps([placed, markets, workers()]))
"""


def test_refused_spot_is_asked_for_on_demand_and_idle_nodes_go(home):
    """Ray alone asks for spot for ever; with cluster/fallback.py what waits comes on demand."""
    with FakeCloud(home, 24150, TYPES, "tests.cluster.provider.NoSpot", idle=0.05) as cloud:
        assert cloud.run(WAITS, 6, 0) == [False, [], []]
        command = [sys.executable, str(FOLDER / "fallback.py"), cloud.address, "0.5"]
        with subprocess.Popen(command, env=cloud.env, stdout=subprocess.PIPE, text=True) as watching:
            try:
                placed, markets, left = cloud.run(WAITS, 300, 300)
                assert watching.poll() is None
                again = subprocess.run(command, env=cloud.env, timeout=60, check=True, capture_output=True)
                assert again.stdout == b""  # one is enough
            finally:
                watching.kill()
    assert placed
    assert markets == ["on-demand", "on-demand"]
    assert left == []
