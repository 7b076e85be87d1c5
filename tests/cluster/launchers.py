"""What the tests of ``cluster/`` share: reading its files."""

from pathlib import Path

import yaml

FOLDER = Path(__file__).parents[2] / "cluster"
CLOUDS = ["aws", "gcp", "azure"]
RAY_UP = [*CLOUDS, "local"]
STARTS = ["head_start_ray_commands", "worker_start_ray_commands"]


def text(name):
    """A file of ``cluster/``."""
    return (FOLDER / name).read_text(encoding="utf-8")


def launcher(name):
    """A file for `ray up`, as it is written."""
    return yaml.safe_load(text(f"{name}.yaml"))


def prepared(name):
    """A file for `ray up` with Ray's defaults filled in."""
    from ray.autoscaler._private.util import prepare_config

    return prepare_config(launcher(name))


def manifests(name):
    """The objects of a Kubernetes file."""
    return [m for m in yaml.safe_load_all(text(f"kuberay/{name}.yaml")) if m]


def comment(content):
    """The lines before the first that is no comment."""
    lines = content.removeprefix("#!/usr/bin/env bash\n").splitlines()
    end = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return "\n".join(line.lstrip("# ") for line in lines[:end])


def workers(config):
    """Worker node types by name."""
    return {n: t for n, t in config["available_node_types"].items() if n != config["head_node_type"]}
