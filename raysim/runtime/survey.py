"""Looks at a Ray cluster: a small task pinned to every node asks what ``node_facts.py`` can find out there.

``main`` is for a program of its own (arguments: ADDRESS [STORAGE], or "open" ADDRESS), since Ray may hang or abort. It
takes no CPU and no GPU of the cluster, so that it neither waits for other work nor makes an autoscaler add nodes.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ray
from ray._private import state
from ray.exceptions import AuthenticationError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raysim.core.placement import Placement
from raysim.core.plugin import ConfigError
from raysim.runtime import placing

Question = dict[str, list[Any]]
"""What a node is asked: see ``node_facts.py``."""

HEAD = "node:__internal_head__"  # the resource by which Ray marks it
FACTS = Path(__file__).with_name("node_facts.py")
PATIENCE = 120.0  # seconds for a node to answer; a busy one takes many to start a process and import torch
# Ray hides GPUs from tasks that ask for none; with this they see what the node was started with.
SEEING = {"env_vars": {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}}


def survey(address: str, storage: str | None = None) -> dict[str, Any]:
    """What a cluster has.

    Args:
        address: the cluster's.
        storage: where runs go, as a path or URL; every node leaves a small file there and says whose it sees.
    """
    open_to(address)
    placing.connect(Placement(address=address))
    gcs = ray.get_runtime_context().gcs_address
    alive = [node for node in ray.nodes() if node["Alive"]]
    free = state.available_resources_per_node()
    nodes = {
        node["NodeID"]: {
            "address": node["NodeManagerAddress"],
            "head": HEAD in node["Resources"],
            "has": node["Resources"],
            "free": free.get(node["NodeID"], {}),
            "labels": node["Labels"],
        }
        for node in alive
    }
    questions: dict[str, Question] = {id: {"machine": ["GPU" in node["has"]]} for id, node in nodes.items()}
    for id, node in nodes.items():
        if node["head"]:
            questions[id]["autoscaler"] = [gcs]
    names = _names(nodes)
    if storage:
        for id in nodes:
            questions[id]["storage"] = [storage, "leave", names[id]]
    here = subprocess.Popen(
        [sys.executable, "-c", *_program({"machine": [False]})], stdout=subprocess.PIPE, text=True
    )
    answers = ask(questions)
    return {
        "address": gcs,
        "nodes": [
            node | answers[id].get("machine", {}) | {"error": answers[id]["errors"].get("machine")}
            for id, node in nodes.items()
        ],
        "here": found(here.communicate(timeout=PATIENCE)[0]).get("machine", {}),
        "autoscaler": next((a["autoscaler"] for a in answers.values() if a.get("autoscaler")), None),
        "storage": shared(storage, names, answers, nodes) if storage else None,
    }


def _names(nodes: Iterable[str]) -> dict[str, str]:
    """Names of files that nodes leave in storage, which begin alike and that no other survey has."""
    mark = secrets.token_hex(4)
    return {id: f"{mark}-{id}" for id in nodes}


def open_to(address: str) -> None:
    """Ask the head something small, with the token that this process has or without one.

    Ray's own way to join tries for 20 seconds and then does not say that it was the token.

    Raises:
        AuthenticationError: the cluster wants another token.
    """
    from ray._raylet import GcsClient  # pyright: ignore[reportAttributeAccessIssue] (compiled)

    host, _, port = address.rpartition(":")
    if host and port.isdigit():  # "auto" is looked up by ray.init
        placing._knock(address)
        GcsClient(address=address).internal_kv_get(b"raysim", None, timeout=10)


def ask(questions: dict[str, Question]) -> dict[str, dict[str, Any]]:
    """Every node's answers to its question, or why there are none."""
    calls = {id: _pinned(id).remote(*_program(question)) for id, question in questions.items()}
    if calls:
        ray.wait(list(calls.values()), num_returns=len(calls), timeout=PATIENCE)
    return {id: _answer(call) for id, call in calls.items()}


def _pinned(node: str) -> Any:
    where = NodeAffinitySchedulingStrategy(node, soft=False)
    options: dict[str, Any] = {
        "num_cpus": 0,
        "max_retries": 0,
        "scheduling_strategy": where,
        "runtime_env": SEEING,
    }
    return ray.remote(**options)(_runner())


def _program(question: Question) -> tuple[str, str]:
    return FACTS.read_text(encoding="utf-8"), json.dumps(question)


def _runner() -> Any:
    """The task. A nested function, since those travel with their code: nodes need no raysim to run it."""

    def facts(text: str, question: str) -> str:
        import subprocess
        import sys

        command = [sys.executable, "-c", text, question]
        done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
        return done.stdout if done.returncode == 0 else done.stderr

    return facts


def _answer(call: Any) -> dict[str, Any]:
    try:
        return found(ray.get(call, timeout=0.1))
    except RayError as error:
        last = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        return _silent(f"no answer ({last[0].strip()})")


def _silent(why: str) -> dict[str, Any]:
    return {"errors": {"machine": why, "storage": why}}


def found(output: str) -> dict[str, Any]:
    """The answers in what the program printed."""
    lines = output.strip().splitlines()
    answers = next((line for line in lines if line.startswith("FOUND")), None)
    return json.loads(answers[5:]) if answers else _silent(lines[-1] if lines else "it said nothing")


def shared(
    storage: str, names: dict[str, str], left: dict[str, dict[str, Any]], nodes: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Which nodes write to storage, and whose files each of them sees there; the files are cleared away.

    Args:
        storage: where.
        names: of the file that each node was asked to leave.
        left: what the nodes answered.
        nodes: their addresses.
    """
    wrote = [id for id in nodes if "storage" in left[id]]
    mark = next(iter(names.values())).partition("-")[0]
    seen = ask({id: {"storage": [storage, "seen", mark]} for id in wrote})
    cleared = ask({id: {"storage": [storage, "clear", names[id]]} for id in wrote})
    errors = {id: a["errors"]["storage"] for id, a in (left | seen).items() if "storage" in a["errors"]}
    missed = {
        id: [nodes[other]["address"] for other in wrote if names[other] not in seen[id]["storage"]]
        for id in wrote
        if id not in errors
    }
    return {
        "where": storage,
        "errors": {nodes[id]["address"]: error for id, error in errors.items()},
        "unseen": {nodes[id]["address"]: others for id, others in missed.items() if others},
        "left behind": [nodes[id]["address"] for id, a in cleared.items() if "storage" in a["errors"]],
    }


def main(arguments: list[str]) -> None:
    """Print what was found, after a word that marks it among what Ray prints."""
    answer: dict[str, Any] = {}
    try:
        if arguments[0] == "open":
            open_to(arguments[1])
        else:
            answer = survey(*arguments)
    except (ConfigError, AuthenticationError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    sys.stdout.write("FOUND" + json.dumps(answer) + "\n")
