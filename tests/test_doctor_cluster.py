"""What the doctor says of clusters: made-up ones of every kind, and a real one of three nodes."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from raysim.doctor import cluster
from raysim.doctor.process import Silent
from tests.surveys import H200, HERE, found, node, place

ROOT = Path(__file__).parents[1]


# ---- nodes -----------------------------------------------------------------------------------------------------------


def test_nodes_that_are_alike_share_a_line():
    fuller = [H200 | {"free": 90e9}] * 4
    nodes = [node("10.0.0.1", 0, head=True), *(node(f"10.0.0.{i}", 32, 4) for i in range(2, 18))]
    nodes[5]["gpus"] = fuller
    head, workers = cluster.nodes(found(*nodes))
    assert (head.level, head.name) == ("ok", "node 10.0.0.1")
    assert "head, 0 CPUs, 0 GPUs" in head.what
    assert workers.name == "node 10.0.0.2 and 15 more"
    assert "32 CPUs, 4 GPUs (NVIDIA H200 with 150 GB, 90 free, " in workers.what


def test_gpus_that_torch_does_not_see_and_nodes_that_do_not_answer_are_problems():
    blind, silent = cluster.nodes(found(node(gpus=2) | {"gpus": []}, node(error="no answer (timed out)")))
    assert (blind.level, silent.level) == ("problem", "problem")
    assert "torch sees 0 of 2 GPUs" in blind.what
    assert "CUDA build" in blind.advice
    assert "timed out" in silent.what


def test_a_gpu_that_lets_nobody_in_is_said():
    (finding,) = cluster.nodes(found(node(gpus=1) | {"gpus": [H200 | {"free": None}]}))
    assert "which lets nobody in" in finding.what


def test_all_nodes_together():
    busy = node("10.0.0.2", 8, 1)
    busy["free"] = {"CPU": 2.0}
    finding = cluster.resources(found(node(head=True), busy), "10.0.0.1:6379")
    assert finding.what.startswith("2 nodes alive, 16 CPUs (10 free), 1 GPU (0 free), object store 40.0 GB")
    assert finding.what.endswith("head 10.0.0.1")


# ---- versions --------------------------------------------------------------------------------------------------------


def versions(**there):
    return cluster.versions(found(node(), node("10.0.0.2", versions=HERE | there)))


def test_the_same_versions_are_named_and_builds_of_torch_may_differ():
    finding = versions(torch="2.13.0+cu130")
    assert finding.level == "ok"
    assert "ray 2.60.0" in finding.what


@pytest.mark.parametrize(("name", "there"), [("python", "3.10.4"), ("ray", "2.59.0")])
def test_ray_refuses_other_versions_of_python_and_ray(name, there):
    finding = versions(**{name: there})
    assert finding.level == "problem"
    assert finding.what == f"{name} is {HERE[name]} here but {there} on 10.0.0.2"


def test_another_torch_or_raysim_is_a_warning():
    assert versions(torch="2.12.0").level == "warning"
    code = versions(**{"raysim code": "bbbbbbbb"})
    assert code.what == "raysim code is aaaaaaaa here but bbbbbbbb on 10.0.0.2"
    absent = versions(**{"raysim": None, "raysim code": None})
    assert absent.what == "raysim is 0.1.0 here but missing on 10.0.0.2"
    assert "raysim submit" in absent.advice


def test_of_many_nodes_that_differ_three_are_named():
    nodes = [node(f"10.0.0.{i}", versions=HERE | {"ray": "2.59.0"}) for i in range(8)]
    assert "2.59.0 on 10.0.0.0, 10.0.0.1, 10.0.0.2 and 5 more" in cluster.versions(found(*nodes)).what


# ---- token -----------------------------------------------------------------------------------------------------------


def test_a_cluster_that_lets_everybody_in_is_a_warning(monkeypatch):
    asked = []
    monkeypatch.setattr(cluster, "answer", lambda *given: asked.append(given) or {})
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    finding = cluster.token("10.0.0.1:6379")
    assert finding.level == "warning"
    assert "lets everybody in" in finding.what
    (_, _, env) = asked[0]
    assert env["RAY_AUTH_MODE"] == "disabled"
    assert "secret" not in env.values()


@pytest.mark.parametrize(
    ("error", "level", "what"),
    [
        ("fails: AuthenticationError: no token", "ok", "needed, and found in RAY_AUTH_TOKEN"),
        ("no answer within 30 s", "warning", "cannot be examined: no answer within 30 s"),
    ],
)
def test_a_token_that_is_needed_and_an_answer_that_says_nothing_of_it(monkeypatch, error, level, what):
    def answer(*_):
        raise Silent(error)

    monkeypatch.setattr(cluster, "answer", answer)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    finding = cluster.token("10.0.0.1:6379")
    assert (finding.level, finding.what) == (level, what)


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        ("fails: AuthenticationError: the token is wrong. And so on", "RAY_AUTH_MODE=token"),
        ("no answer within 600 s", "Is the cluster up"),
    ],
)
def test_a_cluster_that_cannot_be_joined_is_one_finding(monkeypatch, error, advice):
    def answer(*_):
        raise Silent(error)

    monkeypatch.setattr(cluster, "answer", answer)
    (finding,) = cluster.examine("10.0.0.1:6379")
    assert finding.level == "problem"
    assert finding.what == error.partition(". ")[0]
    assert advice in finding.advice


# ---- storage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "level", "what"),
    [
        ({}, "ok", "s3://b: all 2 nodes write there and see the others' files"),
        (
            {"errors": {"10.0.0.2": "no s3fs", "10.0.0.3": "?"}},
            "problem",
            "s3://b: no s3fs (on 10.0.0.2 and 1 more)",
        ),
        ({"unseen": {"10.0.0.2": ["10.0.0.1"]}}, "problem", "10.0.0.2 sees nothing of 10.0.0.1"),
        ({"left behind": ["10.0.0.1"]}, "warning", "but 10.0.0.1 cannot delete there"),
    ],
)
def test_storage(at, level, what):
    at = {"where": "s3://b", "errors": {}, "unseen": {}, "left behind": []} | at
    finding = cluster.shared(found(node(), node("10.0.0.2"), storage=at))
    assert (finding.level, what in finding.what) == (level, True), finding


# ---- a real cluster --------------------------------------------------------------------------------------------------

NODES = """
import sys
from ray.cluster_utils import Cluster

def started(start):  # Ray gives a node half a minute, which a busy machine may need more than once
    for _ in range(5):
        try:
            return start()
        except Exception as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    sys.exit("no node starts")

fields = dict(object_store_memory=80_000_000, include_dashboard=False)
head = dict(num_cpus=1, num_gpus=0, node_ip_address="127.0.0.2", **fields)
cluster = started(lambda: Cluster(True, head_node_args=head))
for address in ("127.0.0.3", "127.0.0.4"):
    started(lambda: cluster.add_node(num_cpus=2, num_gpus=2, node_ip_address=address, **fields))
print("address", cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@contextlib.contextmanager
def three_nodes(env, errors):
    """The address of a cluster of a head and two nodes with two GPUs each, which are not there."""
    with errors.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", NODES],
            env=env | {"CUDA_VISIBLE_DEVICES": "3,5"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        )
    try:
        address = next((line.split()[1] for line in process.stdout if line.startswith("address")), None)
        assert address, errors.read_text()[-3000:]
        yield address
    finally:
        process.communicate("", timeout=120)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cluster_of_three_nodes(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    runs = tmp_path / "runs"
    with three_nodes(dict(os.environ), tmp_path / "errors") as address:
        findings = cluster.examine(address, place(4, gpus_per_actor=0.5), str(runs))
        with pytest.raises(Silent, match="AuthenticationError"):
            cluster.answer([*cluster._SURVEY, address], 120, os.environ | {"RAY_AUTH_MODE": "disabled"})
    said = {f.name: (f.level, f.what) for f in findings}
    assert "token" in said, findings
    assert said["token"] == ("ok", f"needed, and found in {os.environ['RAY_AUTH_TOKEN_PATH']}")
    level, what = said[f"ray at {address}"]
    assert (level, "3 nodes alive, 5 CPUs (5 free), 4 GPUs (4 free), object store 0.2 GB" in what) == (
        "ok",
        True,
    )
    assert what.endswith("head 127.0.0.2")
    assert said["node 127.0.0.2"][0] == "ok"
    ((level, what),) = (found for name, found in said.items() if name.endswith("and 1 more"))
    assert (level, what.rpartition("; ")[2]) == ("problem", "torch sees 0 of 2 GPUs")  # they are made up
    assert said["autoscaler"][1].startswith("none")
    assert said["versions"][0] == "ok", said["versions"]
    assert said["placement"] == ("ok", "4 actors of 1 CPU and 0.5 GPU: the cluster takes 4, 4 of them now")
    assert said["storage"] == ("ok", f"{runs}: all 3 nodes write there and see the others' files")
    assert list(runs.iterdir()) == []
