"""When ``cluster/fallback.py`` asks for nodes on demand, and for how many."""

import importlib.util
import os
import signal
import subprocess
import sys
import time

import pytest
from ray.autoscaler.v2 import schema

from tests.cluster.launchers import CLOUDS, FOLDER, prepared

NOW = 1000.0


@pytest.fixture(scope="module")
def fallback():
    spec = importlib.util.spec_from_file_location("fallback", FOLDER / "fallback.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def status(bundles=(), failed=(), used=()):
    """A status: bundles that wait, launches that failed (type, when), what is used (type, CPUs)."""
    demand = [schema.ResourceRequestByCount(dict(b), n) for b, n in bundles]
    nodes = []
    for kind, cpus in used:
        usage = schema.NodeUsage(
            [schema.ResourceUsage("CPU", 4.0, cpus), schema.ResourceUsage("memory", 9, 1)], 0
        )
        nodes.append(schema.NodeInfo("", kind, "", "", resource_usage=usage))
    launch = lambda kind, when: schema.LaunchRequest(
        "", kind, 1, schema.LaunchRequest.Status.FAILED, 0, failed_ts_s=when
    )
    group = schema.PlacementGroupResourceDemand(bundles_by_count=demand, details="")
    return schema.ClusterStatus(
        active_nodes=nodes,
        failed_launches=[launch(*f) for f in failed],
        resource_demands=schema.ResourceDemandSummary(placement_group_demand=[group]),
    )


REFUSED = [("cpu-spot", 990)]
WAITING = [({"CPU": 1.0}, 2)]


@pytest.mark.parametrize(
    ("seen", "asking", "wanted"),
    [
        (status(), False, []),
        (status(WAITING), False, []),
        (status(failed=REFUSED), True, []),
        (status(WAITING, [("cpu-spot", 700)]), False, []),
        (status(WAITING, [("cpu-on-demand", 990)]), False, []),
        (status(WAITING, REFUSED), False, [{"CPU": 1.0}] * 2),
        (status(WAITING), True, [{"CPU": 1.0}] * 2),
        (status([({"CPU_group_0_ab": 1.0}, 3)], REFUSED), False, []),
        (status([({"GPU": 1.0, "CPU": 4.0}, 1)], REFUSED), False, [{"GPU": 1.0, "CPU": 4.0}]),
        (
            status(WAITING, REFUSED, [("cpu-on-demand", 3.0), ("cpu-on-demand", 0.0), ("cpu-spot", 2.0)]),
            False,
            [{"CPU": 3.0}, {"CPU": 1.0}, {"CPU": 1.0}],
        ),
    ],
    ids=[
        "nothing",
        "spot may yet come",
        "nothing waits any more",
        "long ago",
        "no spot was refused",
        "refused",
        "asked already",
        "inside a placement group",
        "GPU",
        "on top of what is in use",
    ],
)
def test_wanted(fallback, seen, asking, wanted):
    got = fallback.wanted(seen, NOW, asking)
    assert [request["resources"] for request in got] == wanted
    assert all(request["label_selector"] == {"ray.io/market-type": "on-demand"} for request in got)


SMALL = {
    "max_workers": 5,
    "available_node_types": {
        "gpu-on-demand": {"resources": {"CPU": 4, "GPU": 1}, "max_workers": 2},
        "cpu-on-demand": {"resources": {"CPU": 4}, "max_workers": 2},
        "cpu-spot": {"resources": {"CPU": 4}, "max_workers": 5},
    },
}
ONE, FOUR = {"CPU": 1.0}, {"CPU": 4.0}


@pytest.mark.parametrize(
    ("groups", "used", "wanted"),
    [
        ([[FOUR] * 2, [FOUR] * 3, [FOUR] * 2], [], [FOUR] * 4),
        ([[{"GPU": 2.0}], [ONE]], [], [ONE]),
        ([[FOUR] * 4], [("cpu-on-demand", 1.0)], [ONE]),
        ([[FOUR] * 2], [("cpu-spot", 4.0)] * 3, [FOUR] * 2),
        ([[FOUR] * 3], [("cpu-spot", 4.0)] * 3, []),
        ([[{"GPU": 1.0, "CPU": 4.0}] * 2, [ONE] * 9], [], [{"GPU": 1.0, "CPU": 4.0}] * 2),
        ([[ONE] * 16], [], [ONE] * 16),
    ],
    ids=[
        "a group that is too much waits, what comes after it need not",
        "what no node has hinders nobody",
        "what is in use is in the way",
        "spot nodes count for the greatest number of all",
        "and leave no room",
        "GPUs are taken",
        "nodes are filled",
    ],
)
def test_no_more_is_asked_for_than_the_nodes_on_demand_come_to(fallback, groups, used, wanted):
    """Ray takes no notice of a request of which a part cannot be had: see the next test."""
    seen = status(failed=REFUSED, used=used)
    by_count = [[schema.ResourceRequestByCount(dict(b), 1) for b in bundles] for bundles in groups]
    seen.resource_demands.placement_group_demand = [
        schema.PlacementGroupResourceDemand(bundles_by_count=b, details="") for b in by_count
    ]
    got = fallback.wanted(seen, NOW, False, SMALL)
    assert [request["resources"] for request in got] == wanted


@pytest.mark.parametrize("cloud", CLOUDS)
def test_ray_brings_nothing_of_what_is_too_much_and_all_of_what_fallback_asks_for(fallback, cloud):
    config, demand = prepared(cloud), {"ray.io/market-type": "on-demand"}
    assert launched(config, {"CPU": 16.0}, demand, 9) == {}
    assert launched(config, {"CPU": 16.0}, demand, 8) == {"cpu-on-demand": 8}
    kinds, most = fallback.nodes_on_demand(config)
    assert fallback.packed([{"CPU": 16.0}] * 8, kinds, most)
    assert not fallback.packed([{"CPU": 16.0}] * 9, kinds, most)


def test_the_one_that_is_started_last_watches(tmp_path):
    """After another `ray up` the earlier one has an old token, or old code."""
    command = [sys.executable, str(FOLDER / "fallback.py"), "127.0.0.2:44999", "3600"]
    env = os.environ | {"TMPDIR": str(tmp_path)}
    lock = tmp_path / f"raysim-fallback-{os.getuid()}-44999.lock"
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL) as first:
        try:
            until(lambda: lock.exists() and lock.read_text() == str(first.pid))
            with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL) as second:
                try:
                    assert first.wait(timeout=120) == -signal.SIGTERM
                    until(lambda: lock.read_text() == str(second.pid))
                    assert second.poll() is None
                finally:
                    second.kill()
        finally:
            first.kill()


def until(done):
    """Wait for what another process does."""
    deadline = time.monotonic() + 120
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize(
    ("bundle", "selector", "kind"),
    [
        ({"CPU": 16.0}, {}, "cpu-spot"),
        ({"CPU": 4.0, "GPU": 1.0}, {}, "gpu-spot"),
        ({"CPU": 16.0}, {"ray.io/market-type": "on-demand"}, "cpu-on-demand"),
        ({"CPU": 4.0, "GPU": 1.0}, {"ray.io/market-type": "on-demand"}, "gpu-on-demand"),
    ],
    ids=str,
)
def test_ray_s_scheduler_takes_spot_first_and_what_is_asked_for(cloud, bundle, selector, kind):
    assert launched(prepared(cloud), bundle, selector, 2) == {kind: 2}


def launched(config, bundle, selector, number):
    """What Ray's scheduler launches of a launcher's node types, for so many bundles, each a node's worth."""
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil
    from ray.core.generated.autoscaler_pb2 import ClusterResourceConstraint
    from ray.core.generated.common_pb2 import LabelSelectorOperator

    read = AutoscalingConfig(config, skip_content_hash=True)
    labels = [[(key, LabelSelectorOperator.LABEL_OPERATOR_IN, [value])] for key, value in selector.items()]
    requests = [ResourceRequestUtil.make(bundle, label_selectors=labels)] * number
    counted = ResourceRequestUtil.group_by_count(requests)
    constraint = ClusterResourceConstraint(resource_requests=counted)
    reply = ResourceDemandScheduler(None).schedule(
        SchedulingRequest(
            node_type_configs=read.get_node_type_configs(),
            max_num_nodes=read.get_max_num_nodes(),
            resource_requests=[],
            gang_resource_requests=[],
            cluster_resource_constraints=[constraint],
            current_instances=[],
            idle_timeout_s=read.get_idle_timeout_s(),
            disable_launch_config_check=True,
        )
    )
    return {
        launch.instance_type: launch.count for launch in reply.to_launch if launch.instance_type != "head"
    }
