"""What runs on the cluster in ``test_autoscaling.py``: an experiment during which a node is lost."""

import json
import os
from pathlib import Path

import numpy as np

import raysim as rs
from tests.cluster.fake_cloud import SAID, lose, raylet_of
from tests.experiments import digits

if os.environ.get("RAYSIM_TEST_NO_MAILBOX"):  # nodes of a cluster share no memory, those of this test could
    from raysim.runtime import post

    post.mailbox.create = lambda _: None


class NodeDies(rs.rules.Averaging):
    """Averaging; in the third round the node of the second client actor is lost, once."""

    def round(self, clients, server):
        mark = Path(os.environ.get("RAYSIM_TEST_MARK", "/"))
        if server.round == 2 and not mark.exists():
            raylets = nodes_of(clients._fleet)
            mark.write_text(json.dumps(raylets))
            lose(raylets[1])
        after = super().round(clients, server)
        if server.round == 3 and mark.is_file():
            mark.with_suffix(".after").write_text(json.dumps(nodes_of(clients._fleet)))
        return after


def nodes_of(fleet):
    """The node of every client actor, by its raylet's process."""
    import ray

    return [raylet_of(pid) for pid in ray.get([a.pid.remote() for a in fleet.actors], timeout=60)]


def experiment(**changes):
    """Thirty clients, twelve a round, five rounds; they keep their momentum, on whichever node they are."""
    kept = rs.Local(
        optimizer=rs.optimizers.SGD(lr=0.05, momentum=0.9), steps=3, batch_size=8, keep_state=True
    )
    fields = {"rule": NodeDies(), "rounds": 5, "cohort": 12, "local": kept, "checkpoint_every": 1}
    return digits(**fields | changes)


def main(address, folder):
    """Run it there."""
    import ray

    place = rs.Placement(actors=3, cpus_per_actor=1, address=address, timeout=300, wait=300)
    before = nodes(address)
    result = experiment(placement=place).run(folder)
    np.save(Path(folder).with_suffix(".npy"), result.x_P.numpy())
    facts = {"status": result.status, "losses": result.metrics["loss"].tolist(), "before": before}
    print(SAID + json.dumps(facts | {"after": [n["Alive"] for n in ray.nodes()]}))


def nodes(address):
    """How many nodes there are."""
    import ray

    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    return sum(n["Alive"] for n in ray.nodes())
