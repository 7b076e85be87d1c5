"""Resources that others have, that the cluster may grow to, and that it can never have; a run without client actors."""

import math
import time
from types import SimpleNamespace

import pytest
import yaml

import raysim as rs
from raysim.runtime import capacity, node_facts, placing
from raysim.runtime.coordinator import Coordinator
from raysim.runtime.drive import drive
from tests.experiments import digits, same

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]  # four CPUs, no GPU


@pytest.fixture
def taken():
    """Three of the four CPUs, by other work."""
    import ray

    group = ray.util.placement_group([{"CPU": 1}] * 3)
    assert group.wait(60)
    yield lambda: ray.util.remove_placement_group(group)
    ray.util.remove_placement_group(group)
    await_free(4)


def await_free(cpus):
    """Until so many CPUs are free again: what was removed is given back a moment later."""
    import ray

    end = time.monotonic() + 120
    while ray.available_resources().get("CPU", 0) < cpus:
        assert time.monotonic() < end, ray.available_resources()
        time.sleep(0.05)


@pytest.fixture
def soon(monkeypatch):
    """Words about waiting come at once."""
    monkeypatch.setattr(capacity, "QUIET", 0.0)


def freeing(taken):
    """Collects what is told; the first word makes the other work end."""
    told = []

    def tell(text):
        told.append(text)
        taken()

    return told, tell


def test_what_others_have_is_waited_for(taken, soon):
    told, tell = freeing(taken)
    reserved = placing.reserve(rs.Placement(actors=2, wait=120), tell)
    reserved.release()
    assert len(told) == 1
    assert (
        "waiting for 2 x (1 CPU) (free: 1 CPUs, 0 GPUs), that is for other work to give them back" in told[0]
    )


def test_nobody_gives_back(taken):
    with pytest.raises(
        rs.ConfigError, match=r"needs 2 x \(1 CPU\), which the cluster has.*within 1 s.*placement\.wait"
    ):
        placing.reserve(rs.Placement(actors=2, wait=1.0), lambda text: None)
    from ray.util import placement_group_table

    assert (
        sum(g["state"] != "REMOVED" for g in placement_group_table().values()) == 1
    )  # only the other work's


def test_actors_that_would_fit_together_but_each_on_no_node_are_refused(monkeypatch):
    monkeypatch.setattr(capacity, "nodes", lambda on=None: [{"CPU": 2.0}, {"CPU": 2.0}])
    with pytest.raises(
        rs.ConfigError,
        match=r"asks for 3 CPU, each on one node.*have 2 CPU, 0 GPU; 2 CPU, 0 GPU\. Use fewer",
    ):
        placing.reserve(rs.Placement(actors=1, cpus_per_actor=3), lambda text: None)


def test_bundles_go_whole_onto_nodes():
    """By hand: 5 CPUs hold two of 2, 3 CPUs one, and a node without GPUs none that needs one."""
    cluster = capacity.Growth([({"CPU": 5.0}, 1), ({"CPU": 3.0, "GPU": 2.0}, 2), ({"CPU": 8.0}, 0)])
    assert cluster.fitting({"CPU": 2.0}) == 4
    assert cluster.fitting({"CPU": 1.0, "GPU": 1.0}) == 4
    assert capacity.Growth(cluster.kinds, most=2).fitting({"CPU": 2.0}) == 3  # the best two nodes
    assert capacity.each({"CPU": 0.1}, {"CPU": 0.3}) == 3  # though 0.3 / 0.1 < 3
    assert capacity.Growth([({"CPU": 1.0}, math.inf)]).fitting({"CPU": 1.0}) == math.inf


GROWS = {
    "head_node_type": "head",
    "max_workers": 10,
    "available_node_types": {
        "head": {"resources": {"CPU": 1}},
        "small": {"resources": {"CPU": 4}, "max_workers": 3},
        "gpu": {"resources": {"CPU": 8, "GPU": 2}},
    },
}


@pytest.fixture
def grows(tmp_path, monkeypatch):
    """An autoscaler started with GROWS serves this cluster."""
    file = tmp_path / "cloud.yaml"
    file.write_text(yaml.safe_dump(GROWS, sort_keys=False))
    monitors = [{"logs-dir": "y"}, {"autoscaling-config": str(file)}]
    monkeypatch.setattr(node_facts, "monitors", lambda address: monitors)
    return file


def test_growth_as_the_launcher_has_it(monkeypatch, grows):
    kinds = [({"CPU": 4}, 3), ({"CPU": 8, "GPU": 2}, 10)]
    assert capacity.growth() == capacity.Growth(kinds, most=10, head={"CPU": 1})
    grows.unlink()
    assert capacity.growth() is None
    monkeypatch.setenv(capacity.KUBERAY, "1")
    assert capacity.growth() is None  # this head has a monitor that does not scale
    monkeypatch.setattr(node_facts, "monitors", lambda address: [])
    assert capacity.growth().fitting({"CPU": 64, "GPU": 8}) == math.inf


def test_growth_as_rays_state_has_it(monkeypatch):
    from ray._private.state import state

    groups = [
        SimpleNamespace(resources={"CPU": 4}, max_count=3),
        SimpleNamespace(resources={"CPU": 2}, max_count=-1),
    ]
    monkeypatch.setattr(state, "get_cluster_config", lambda: SimpleNamespace(node_group_configs=groups))
    assert capacity.growth() == capacity.Growth([({"CPU": 4}, 3), ({"CPU": 2}, math.inf)])


def test_what_the_cluster_may_grow_to_is_waited_for_and_no_more_than_that(monkeypatch, soon, grows):
    monkeypatch.setattr(capacity, "GROW", 2.0)
    told = []
    with pytest.raises(
        rs.ConfigError, match=r"may grow to 20 x \(4 CPU\), but has not within 2 s.*ray status"
    ):
        placing.reserve(rs.Placement(actors=20, cpus_per_actor=4, wait=1.0), told.append)
    assert "waiting for 20 x (4 CPU)" in told[0]
    assert "machines that the autoscaler brings" in told[0]
    words = len(told)
    for actors, cpus in ((50, 4), (24, 4), (1, 9)):  # 10 nodes of at most 8 CPUs, and the head
        with pytest.raises(rs.ConfigError, match=r"and may grow to 81 CPUs and 20 GPUs"):
            placing.reserve(rs.Placement(actors=actors, cpus_per_actor=cpus), told.append)
    assert len(told) == words


# ---- a coordinator that does the work itself -----------------------------------------------------------------


def test_a_run_without_client_actors_reserves_its_threads(tmp_path):
    import ray

    sim = digits(rounds=3)
    before = ray.available_resources()["CPU"]
    assert same(sim.run(None), drive(sim, tmp_path / "run", on_ray=True))
    assert (tmp_path / "run" / "figures" / "learning_curve.png").exists()
    await_free(before)
    with pytest.raises(
        rs.ConfigError, match=r"needs 5 CPU on one node, but this node, where the folder .* has 4 CPU"
    ):
        drive(sim.replaced(placement=rs.Placement(threads=5)), tmp_path / "other", on_ray=True)
    with pytest.raises(
        rs.ConfigError, match=r"1 GPU on one node, but the largest node of the cluster has 4 CPU, 0 GPU"
    ):
        drive(sim.replaced(placement=rs.Placement(device="cuda")), None, on_ray=True)


def test_it_waits_for_its_cpus_and_says_so(taken, soon, monkeypatch):
    from raysim.report.progress import Progress

    told = []

    def watch(self, event):
        if event["kind"] == "waiting":
            told.append(event["text"])
            taken()

    monkeypatch.setattr(Progress, "watch", watch)
    sim = digits(rounds=2, placement=rs.Placement(threads=2, wait=120))
    assert drive(sim, None, on_ray=True).status == "finished"
    assert "waiting for 2 CPU (free: 1 CPUs" in told[0]


def test_a_job_gathers_under_a_name_and_another_process_finds_it(monkeypatch):
    """A job waits with `reserve` or `seat` before it drives the run, whose coordinator asks for the same again."""
    from ray.util import placement_group_table

    monkeypatch.setenv(capacity.GROUP, "raysim-job")
    sim = digits(
        rounds=2, placement=rs.Placement(actors=2, cpus_per_actor=2)
    )  # all there is: a second would wait
    first = placing.reserve(sim.placement, lambda text: None)
    there = lambda: [g for g in placement_group_table().values() if g["state"] != "REMOVED"]
    assert [g["name"] for g in there()] == ["raysim-job"]
    assert placing.reserve(sim.placement, lambda text: None).group.id == first.group.id
    events = []
    outcome = Coordinator(sim, None, watch=events.append).run()
    assert outcome.status == "finished"
    assert "waiting" not in {e["kind"] for e in events}
    assert there() == []
    alone = rs.Placement(threads=3)
    seat = placing.seat(alone, None, lambda text: None)
    assert placing.seat(alone, None, lambda text: None).id == seat.id
    result = drive(digits(rounds=2, placement=alone), None, on_ray=True, watch=events.append)
    assert result.status == "finished"
    assert events[-1]["kind"] == "ended"


def test_where_a_run_happens(monkeypatch):
    from raysim.runtime import drive as driving, on_ray

    where = lambda **fields: driving._where(digits(placement=rs.Placement(**fields)), None)
    assert where() is driving._in_process
    assert where(actors=2) is on_ray.run
    assert where(address="auto") is on_ray.run
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert where() is on_ray.run


def test_a_folder_in_this_processes_memory_is_refused_on_ray():
    with pytest.raises(
        rs.ConfigError, match="is in this process's memory, but the run is in another process"
    ):
        digits(placement=rs.Placement(actors=2)).run("memory://runs/x")


def test_a_file_url_with_client_actors(tmp_path):
    sim = digits(rounds=3, checkpoint_every=1)
    placement = rs.Placement(actors=2, cpus_per_actor=0.5)
    assert same(sim.run(None), sim.replaced(placement=placement).run(f"file://{tmp_path}/x"))
    assert same(sim.run(None), rs.Result.read(f"file://{tmp_path}/x"))


def test_rows_of_other_nodes_come_as_bytes(tmp_path, monkeypatch):
    """As if every actor were elsewhere: files come from the coordinator alone, and nothing is read by an actor."""
    from raysim.runtime.client_actor import ClientActor

    kept = rs.Local(
        optimizer=rs.optimizers.SGD(lr=0.05, momentum=0.9), epochs=1, batch_size=8, keep_state=True
    )
    monkeypatch.setattr(ClientActor, "node", lambda self: "elsewhere")
    monkeypatch.setattr(ClientActor, "save_rows", None)
    sim = digits(local=kept, rounds=3)
    placed = sim.replaced(placement=rs.Placement(actors=2, cpus_per_actor=0.5))
    Coordinator(placed, tmp_path / "run").run()
    assert len(list(tmp_path.glob("run/checkpoints/000003/rows-*.safetensors"))) == 2
    more = placed.replaced(rounds=5)
    assert same(
        sim.replaced(rounds=5).run(None), _result(more, Coordinator(more, tmp_path / "run", True).run())
    )


def _result(sim, outcome):
    return rs.Result(sim, outcome.status, outcome.rows, outcome.server.x_P)
