"""What the doctor says fits on a cluster: client actors on its GPUs, and an experiment's placement and memory."""

import pytest

import raysim as rs
from raysim.doctor import cluster, experiment
from tests.experiments import digits
from tests.surveys import H200, found, node, place, scaling


def naive(nodes, split):
    """Actors of 1 CPU and 1/split GPU, placed one GPU after the other as raysim does."""
    placed = 0
    for cpus, gpus in nodes:
        for _ in range(gpus):
            if cpus >= split:
                cpus, placed = cpus - split, placed + split
    return placed


@pytest.mark.parametrize("nodes", [[(8, 0), (8, 1)], [(8, 4), (3, 2)], [(32, 8), (16, 8), (0, 1)]])
def test_client_actors_per_fraction_of_a_gpu(nodes):
    what = cluster.fractions(found(*(node(cpus=c, gpus=g) for c, g in nodes))).what
    for split in (1, 2, 4, 8):
        assert f"{naive(nodes, split)} with gpus_per_actor {1 / split:g}, {150 / split:.0f} GB each" in what


def test_without_gpus_cpus_count():
    assert cluster.fractions(found(node(cpus=8), node(cpus=3))).what.startswith("11 of 1 CPU; no GPUs")


def test_what_the_autoscaler_may_add_counts_too():
    limits = scaling(5, gpu=(3, 4, 2), cpu=(8, 16, 0))
    here = found(node(cpus=0, head=True), node("10.0.0.2", 4, 2), autoscaler=limits)
    what = cluster.autoscaler(here).what
    assert what == "workers: 0 to 3 gpu (4 CPUs, 2 GPUs); 0 to 8 cpu (16 CPUs, 0 GPUs), at most 5 in all"
    assert experiment.to_come(here, {"GPU": 1.0, "CPU": 2.0}) == 2 * 2  # one of the three is there
    assert experiment.to_come(here, {"CPU": 1.0}) == 4 * 16  # four more in all, of the roomiest kind
    assert "4 (up to 12 as nodes are added) with gpus_per_actor 0.5" in cluster.fractions(here).what
    assert experiment.to_come(found(node()), {"CPU": 1.0}) == 0


GPUS = [node(cpus=0, head=True), node("10.0.0.2", 8, 2), node("10.0.0.3", 8, 2)]


@pytest.mark.parametrize(
    ("actors", "fraction", "level", "what"),
    [
        (16, 0, "ok", "16 actors of 1 CPU: the cluster takes 16, 16 of them now"),
        (17, 0, "problem", "17 actors of 1 CPU: the cluster takes 16, 16 of them now"),
        (8, 0.5, "ok", "8 actors of 1 CPU and 0.5 GPU: the cluster takes 8, 8 of them now"),
        (9, 0.5, "problem", "the cluster takes 8"),
        (12, 0.3, "ok", "the cluster takes 12"),  # three to a GPU
        (13, 0.3, "problem", "the cluster takes 12"),
        (16, 0.25, "ok", "the cluster takes 16"),
        (8, 0.125, "problem", "the cluster takes 32, 32"),
    ],
)
def test_placement_of_an_experiment(actors, fraction, level, what):
    if fraction == 0.125:  # eight CPUs per GPU: one bundle per node
        actors, what = 17, "the cluster takes 16"
    finding = experiment.placement(place(actors, gpus_per_actor=fraction), found(*GPUS))
    assert (finding.level, what in finding.what) == (level, True), finding
    assert bool(finding.advice) == (level == "problem")


def test_placement_that_waits_and_placement_that_nodes_come_for():
    busy = [{**n, "free": {"CPU": 1.0}} for n in GPUS]
    finding = experiment.placement(place(16), found(*busy))
    assert (finding.level, "3 of them now" in finding.what) == ("warning", True)
    head = node(cpus=0, head=True)
    grown = experiment.placement(
        place(8, gpus_per_actor=0.5), found(head, autoscaler=scaling(2, gpu=(2, 8, 2)))
    )
    assert (grown.level, "up to 8 once the autoscaler" in grown.what) == ("ok", True)
    none = experiment.placement(place(8, gpus_per_actor=0.5), found(head))
    assert (none.level, none.advice) == (
        "problem",
        "Leave gpus_per_actor at 0 to run on CPUs, or join a cluster with GPUs.",
    )


@pytest.mark.parametrize(
    ("nodes", "fields", "level", "what"),
    [
        ([node(cpus=1)], {}, "ok", "no actors: the run takes 1 CPU of one node"),
        (
            [node(cpus=4), node(cpus=4)],
            {"threads": 8},
            "problem",
            "takes 8 CPU of one node, and none has that",
        ),
        ([node(cpus=0, head=True)], {}, "problem", "takes 1 CPU of one node, and none has that"),
        ([node(cpus=2) | {"free": {}}], {}, "warning", "which other work has now"),
        ([node(cpus=2)], {"device": "cuda"}, "problem", "takes 1 CPU, 1 GPU of one node, and none has that"),
        ([node(cpus=2, gpus=1)], {"device": "cuda"}, "ok", "takes 1 CPU, 1 GPU of one node"),
    ],
)
def test_placement_of_a_run_in_one_process(nodes, fields, level, what):
    """What `placing.seat` refuses is a problem here: a head without CPUs has no room for it."""
    finding = experiment.placement(place(0, **fields), found(*nodes))
    assert (finding.level, what in finding.what) == (level, True), finding
    assert bool(finding.advice) == (level != "ok")


def test_a_node_that_comes_for_a_run_in_one_process():
    head = node(cpus=0, head=True)
    finding = experiment.placement(place(0), found(head, autoscaler=scaling(2, cpu=(2, 8, 0))))
    assert (finding.level, "once the autoscaler has added one" in finding.what) == ("ok", True)


def test_memory_of_an_actor_by_hand():
    """64·16 + 16 + 16·10 + 10 = 1,210 parameters, and as many numbers of momentum per client."""
    momentum = rs.Local(
        optimizer=rs.optimizers.SGD(lr=0.1, momentum=0.9), epochs=1, batch_size=8, keep_state=True
    )
    need = experiment.need(
        digits(local=momentum, placement=rs.Placement(actors=2))
    )  # blocks of 3, 30 clients
    assert need.work == 4 * (3 * (3 * 1210 + 1210) + 4 * 1210) + 4 * 30 * 1210 / 2
    dataset = rs.data.Digits().load()
    assert need.data == sum(getattr(dataset, f"{a}_{b}").nbytes for a in "xy" for b in ("train", "test"))
    assert "1,210 parameters x (block of 3 x 3 copies + 4)" in need.text


def test_memory_against_what_a_fraction_of_a_gpu_has():
    small = found(node(gpus=1) | {"gpus": [H200 | {"free": 2e9}]})
    half, quarter = (experiment.memory(place(1, gpus_per_actor=fraction), small) for fraction in (0.5, 0.25))
    assert (half.level, quarter.level) == ("ok", "problem")
    assert "it has 1.0 GB of 0.5 GPU" in half.what
    assert "smaller execution.block or fewer actors per GPU" in quarter.advice
    unknown = experiment.memory(place(1, gpus_per_actor=0.5), found(node()))
    assert "no GPU of the cluster says how much it has" in unknown.what


def test_memory_against_what_a_node_has():
    tight = node(cpus=8)
    tight["has"] = tight["has"] | {"memory": 2e9}
    assert experiment.memory(place(2), found(tight)).level == "ok"
    assert experiment.memory(place(8), found(tight)).level == "problem"


def test_the_data_set_is_in_the_object_store_and_not_in_what_actors_have(monkeypatch):
    """Ray's `memory` leaves the object store out; data that finds no room there goes to the disk, and is said."""
    needed = experiment.Need("text", 0.4e9, 0.1e9, 9e9)
    monkeypatch.setattr(experiment, "need", lambda simulation: needed)
    roomy, tight = ({"CPU": 8.0, "memory": 10e9, "object_store_memory": store} for store in (10e9, 5e9))
    fits = experiment.memory(place(8), found(node() | {"has": roomy}))
    assert (fits.level, "it has 1.2 GB" in fits.what) == ("ok", True), fits
    disk = experiment.memory(place(8), found(node() | {"has": tight}))
    assert (disk.level, "larger than an object store of 5.0 GB" in disk.what) == ("warning", True), disk
    assert "--object-store-memory" in disk.advice


def test_memory_of_a_run_in_one_process_on_a_gpu():
    small = found(node(gpus=1) | {"gpus": [H200 | {"free": 0.5e9}]})
    finding = experiment.memory(place(0, device="cuda"), small)
    assert (finding.level, "it has 0.5 GB of 1 GPU" in finding.what) == ("problem", True), finding


def test_an_experiment_whose_data_is_not_here_is_a_warning():
    """Laptops need not have what the cluster has."""
    placed, memory = experiment.examine(digits(data=rs.data.Npz(path="/nowhere.npz")), found(node()))
    assert placed.level == "ok"
    assert memory.level == "warning"
    assert "/nowhere.npz" in memory.what
