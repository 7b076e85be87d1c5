"""A Ray cluster of several nodes on this machine, in a process of its own: run as a script by ``test_nodes.py``.

It reads commands as JSON lines and answers each with one: ["kill", node] loses a node, ["left"] lists the actors and
placement groups that are alive, ["where"] says on which node the only actor is. The head has no CPUs, as in the files
of ``cluster/``.
"""

import json
import sys

PORT = 21379
STORE = 80_000_000
IP = "127.0.0.2"  # loopback that Ray does not replace by the machine's own address


def main():
    """Serve commands until the input ends."""
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "gcs_server_port": PORT, "node_ip_address": IP, "object_store_memory": STORE}
    cluster = Cluster(initialize_head=True, head_node_args=head | {"include_dashboard": False})
    workers = [cluster.add_node(num_cpus=2, node_ip_address=IP, object_store_memory=STORE) for _ in range(2)]
    ray.init(address=f"{IP}:{PORT}", log_to_driver=False, logging_level="ERROR")
    answer()
    for line in sys.stdin:
        command, *rest = json.loads(line)
        if command == "kill":
            cluster.remove_node(next(w for w in workers if w.node_id == rest[0]), allow_graceful=False)
            answer()
        elif command == "where":
            answer(node=where())
        elif command == "left":
            answer(**left())
        else:
            break
    ray.shutdown()
    cluster.shutdown()


def left():
    """Classes of the actors that are alive, and how many placement groups are."""
    from ray._private.state import actors
    from ray.util import placement_group_table

    alive = [a["ActorClassName"] for a in actors().values() if a["State"] != "DEAD"]
    groups = [g for g in placement_group_table().values() if g["state"] != "REMOVED"]
    return {"actors": sorted(alive), "groups": len(groups)}


def where():
    """The node of the coordinator."""
    from ray._private.state import actors

    [node] = [a["Address"]["NodeID"] for a in actors().values() if a["State"] == "ALIVE"]
    return node


def answer(**facts):
    """One line that the test finds among what Ray prints."""
    print("said: " + json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
