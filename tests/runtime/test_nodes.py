"""Runs on a cluster of several nodes: no shared mount, drivers that are killed, nodes that are lost."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import raysim as rs
from tests.experiments import digits, same
from tests.runtime import nodes

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

KEPT = rs.Local(optimizer=rs.optimizers.SGD(lr=0.05, momentum=0.9), epochs=1, batch_size=8, keep_state=True)
DRIVER = """
import json, sys
import raysim as rs
from raysim.runtime.drive import drive, resume
from raysim.runtime.fleet import HostLost
what, folder, *file = sys.argv[1:]
try:
    sim = rs.Simulation.from_yaml(open(file[0]).read()) if file else None
    result = drive(sim, folder) if what == "run" else resume(folder)
    print("said: " + json.dumps({"status": result.status}), flush=True)
except HostLost as error:
    print("said: " + json.dumps({"status": type(error).__name__, "text": str(error)}), flush=True)
"""


def said(stream):
    """The next line that is meant for the test."""
    for line in stream:
        if line.startswith("said: "):
            return json.loads(line.removeprefix("said: "))
    raise AssertionError("it ended without a word")


class Nodes:
    """The cluster's process, and what runs on it."""

    def __init__(self, home):
        token = home / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        root = str(Path(__file__).parents[2])
        self.env = os.environ | {
            "RAY_TMPDIR": str(home),
            "TMPDIR": str(home),  # working folders of runs that are killed
            "RAY_AUTH_TOKEN_PATH": str(token),
            "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]),
        }
        self.errors = open(home / "errors", "w")  # noqa: SIM115 (as long as the cluster)
        self.process = self.start([str(nodes.__file__)], stdin=subprocess.PIPE)
        try:
            said(self.process.stdout)
        except AssertionError:
            self.end()
            raise

    def start(self, words, **options):
        """A Python process on the cluster."""
        pipes = {"stdout": subprocess.PIPE, "stderr": self.errors, "text": True}
        return subprocess.Popen([sys.executable, *words], env=self.env, **pipes, **options)

    def ask(self, *command):
        """Have the cluster's process do something."""
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return said(self.process.stdout)

    def drive(self, *words):
        """A driver process: run or resume, folder, experiment."""
        return self.start(["-c", DRIVER, *map(str, words)])

    def end(self):
        """End it all."""
        self.process.stdin.close()
        self.process.wait(120)
        self.process.stdout.close()
        self.errors.close()


@pytest.fixture(scope="module")
def cluster():
    home = Path(tempfile.mkdtemp(prefix="rn", dir="/tmp"))
    there = Nodes(home)
    yield there
    there.end()
    shutil.rmtree(home, ignore_errors=True)


def until(true, seconds=300):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it has not come"
        time.sleep(0.05)


def written(tmp_path, **fields):
    """An experiment whose clients keep rows, and its file."""
    sim = digits(local=KEPT, checkpoint_every=1, **fields)
    file = tmp_path / "experiment.yaml"
    file.write_text(sim.to_yaml())
    return sim, file


def on(actors):
    return rs.Placement(actors=actors, address=f"{nodes.IP}:{nodes.PORT}")


def test_a_driver_is_killed_and_all_of_it_goes_and_the_run_is_resumed(cluster, tmp_path):
    """Three actors on two nodes, neither the coordinator's: their rows reach the checkpoints and come back."""
    sim, file = written(tmp_path, rounds=200, placement=on(3))
    folder = tmp_path / "run"
    driver = cluster.drive("run", folder, file)
    until(lambda: (folder / "checkpoints" / "000003" / "manifest.json").exists() or driver.poll() is not None)
    driver.send_signal(signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL
    driver.stdout.close()
    until(lambda: cluster.ask("left") == {"actors": [], "groups": 0})
    assert json.loads((folder / "run.json").read_text())["status"] == "running"
    assert len(list(next(folder.glob("checkpoints/*[0-9]")).glob("rows-*"))) == 3  # blocks, one to each actor
    short = sim.replaced(
        rounds=json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["round"] + 3
    )
    (folder / "experiment.yaml").write_text(short.to_yaml())
    driver = cluster.drive("resume", folder)
    assert said(driver.stdout) == {"status": "finished"}
    assert driver.wait(60) == 0
    driver.stdout.close()
    assert same(short.replaced(placement=rs.Placement()).run(None), rs.Result.read(folder))


def test_the_node_of_a_coordinator_is_lost_and_the_run_is_resumed_from_its_url(cluster, tmp_path):
    sim, file = written(tmp_path, rounds=300, placement=on(0))
    url = f"file://{tmp_path}/there"
    driver = cluster.drive("run", url, file)
    until(lambda: (tmp_path / "there/checkpoints/000003/manifest.json").exists() or driver.poll() is not None)
    assert cluster.ask("left")["actors"] == ["Coordinator"]
    lost = cluster.ask("where")["node"]
    cluster.ask("kill", lost)
    end = said(driver.stdout)
    assert end["status"] == "CoordinatorLost"
    assert f"go on from there: raysim resume {url}" in end["text"]
    assert "has the checkpoint of round" in end["text"]
    driver.wait(120)
    driver.stdout.close()
    last = max(int(f.name) for f in (tmp_path / "there/checkpoints").glob("*[0-9]"))
    short = sim.replaced(rounds=last + 3)
    (tmp_path / "there/experiment.yaml").write_text(short.to_yaml())
    driver = cluster.drive("resume", url)
    assert said(driver.stdout) == {"status": "finished"}
    driver.wait(60)
    driver.stdout.close()
    assert same(short.replaced(placement=rs.Placement()).run(None), rs.Result.read(url))
