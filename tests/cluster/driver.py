"""What runs on the cluster in ``test_autoscaling.py``: an experiment whose nodes are refused, come, are lost and go."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

import raysim as rs
from tests.cluster.fake_cloud import SAID, lose, raylet_of
from tests.cluster.launchers import FOLDER
from tests.experiments import digits

if os.environ.get("RAYSIM_TEST_NO_MAILBOX"):  # nodes of a cluster share no memory, those of this test could
    from raysim.runtime import post

    post.mailbox.create = lambda _: None

PATIENCE = 300.0  # seconds for anything that another process does


class NodeDies(rs.rules.Averaging):
    """Averaging; in the second round the node of the second client actor is lost, once."""

    def round(self, clients, server):
        mark = Path(os.environ.get("RAYSIM_TEST_MARK", "/"))
        if server.round == 1 and not mark.exists():
            raylets = nodes_of(clients._fleet)
            mark.write_text(json.dumps(raylets))
            lose(raylets[1])
        after = super().round(clients, server)
        if server.round == 2 and mark.is_file():
            mark.with_suffix(".after").write_text(json.dumps(nodes_of(clients._fleet)))
        return after


def nodes_of(fleet):
    """The node of every client actor, by its raylet's process."""
    import ray

    return [raylet_of(pid) for pid in ray.get([a.pid.remote() for a in fleet.actors], timeout=60)]


def experiment(**changes):
    """Thirty clients, twelve a round, four rounds; they keep their momentum, on whichever node they are."""
    kept = rs.Local(
        optimizer=rs.optimizers.SGD(lr=0.05, momentum=0.9), steps=3, batch_size=8, keep_state=True
    )
    fields = {"rule": NodeDies(), "rounds": 4, "cohort": 12, "local": kept, "checkpoint_every": 1}
    return digits(**fields | changes)


def main(address, folder, launcher):
    """Run it there; ``fallback.py`` begins when Ray has asked for spot nodes again and again."""
    import ray

    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    facts = {"before": markets()}
    helper = threading.Thread(target=watched, args=(address, launcher, facts))
    helper.start()
    place = rs.Placement(actors=2, cpus_per_actor=1, address=address, timeout=PATIENCE, wait=PATIENCE)
    result = experiment(placement=place).run(folder)
    helper.join()
    np.save(Path(folder).with_suffix(".npy"), result.x_P.numpy())
    facts |= {"status": result.status, "losses": result.metrics["loss"].tolist(), "after": markets()}
    until(lambda: len(markets()) == 1)
    print(SAID + json.dumps(facts | {"left": markets()}))


def watched(address, launcher, facts):
    """See a spot node refused several times over and nothing else come of it; then let ``fallback.py`` watch."""
    from ray.autoscaler.v2 import sdk

    refusals = set()

    def again():
        failed = sdk.get_cluster_status(address).failed_launches
        refusals.update((launch.ray_node_type_name, launch.failed_ts_s) for launch in failed)
        return len(refusals) >= 3

    until(again)
    facts |= {"refused": sorted({name for name, _ in refusals}), "alone": markets()}
    command = [sys.executable, str(FOLDER / "fallback.py"), address, "0.5", launcher]  # ends with the cluster
    subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def markets():
    """The nodes, by the market that they are from; the head is from none."""
    import ray

    return sorted(n["Labels"].get("ray.io/market-type", "") for n in ray.nodes() if n["Alive"])


def until(done):
    """Wait for it."""
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.2)
