"""`ray up cluster/local.yaml`: laptop, head and worker, by an ssh and an rsync that stay on this machine."""

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import requests
import yaml

from tests.cluster.fake_cloud import IP, end
from tests.cluster.launchers import FOLDER, launcher

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

PORT = 24200
WORKER = "127.0.0.3"
DASHBOARD = f"http://127.0.0.1:{PORT + 1}"
BIN = Path(sys.executable).parent

SSH = """#!/bin/bash
while [[ "$1" != *@* ]]; do shift; done    # options, up to user@address
home=$NODES/${1#*@}
shift
cd "$home" && HOME=$home PATH=/usr/bin:/bin RAY_TMPDIR=$NODES exec bash -c "$*"
"""
RSYNC = """#!/bin/bash
from=${@: -2:1} to=${@: -1}
address=${to%%:*} to=${to#*:}
to=${to/#\\~/$NODES/${address#*@}}
if [ -d "$from" ]; then mkdir -p "$to" && cp -r "$from/." "$to"
else mkdir -p "$(dirname "$to")" && cp "$from" "$to"; fi
"""
RAY = """#!/bin/bash
[ "$1" = stop ] && echo >> $HOME/stopped && exit 0     # it would end every Ray on this machine
[ "$1" = start ] && set -- "${{@/:6379/:{port}}}" {options}
exec {ray} "$@"
"""
UV = '#!/bin/sh\necho "uv $*" >> $HOME/installed\n[ "$2" != freeze ] || echo numpy==2.3.1\n'
HEAD = f"--temp-dir={{home}}/t --port={PORT} --dashboard-port={PORT + 1} --ray-client-server-port={PORT + 2}"


def script(path, content):
    """An executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(0o755)


def machine(home, address, options):
    """A machine of the lab, with nothing on it but what `uv` would have installed."""
    options += f" --node-ip-address={address} --object-store-memory=80000000"
    script(home / "raysim-env/bin/ray", RAY.format(options=options, ray=BIN / "ray", port=PORT))
    script(home / "raysim-env/bin/python", f'#!/bin/sh\nexec {BIN}/python "$@"\n')
    script(home / "raysim-env/bin/ssh", SSH)
    script(home / "raysim-env/bin/rsync", RSYNC)
    script(home / ".local/bin/uv", UV)
    (home / ".profile").write_text('PATH="$HOME/.local/bin:$PATH"\n')  # as Ubuntu's


@pytest.fixture
def laptop():
    """The folder of it all, and the environment of somebody's laptop."""
    with tempfile.TemporaryDirectory(prefix="ru", dir="/tmp", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        ports = " --dashboard-agent-listen-port={} --metrics-export-port={}"
        machine(home / IP, IP, HEAD.format(home=home) + ports.format(PORT + 3, PORT + 4))
        machine(home / WORKER, WORKER, "--num-cpus=3" + ports.format(PORT + 5, PORT + 6))
        script(home / "bin/ssh", SSH)
        script(home / "bin/rsync", RSYNC)
        for name, content in ((".ssh/raysim", "none"), (".raysim/ray/auth_token", secrets.token_hex(32))):
            (home / "laptop" / name).parent.mkdir(parents=True)
            (home / "laptop" / name).write_text(content)
        env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
            "HOME": str(home / "laptop"),
            "NODES": str(home),
            "PATH": f"{home}/bin:{BIN}:/usr/bin:/bin",
            "RAY_TMPDIR": str(home / "laptop"),
            "PYTHONPATH": str(FOLDER.parent),
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        }
        try:
            yield home, env
        finally:
            end(home)


def test_from_laptop_to_head_to_worker_and_down(laptop):
    home, env = laptop
    config = launcher("local")
    config["provider"] |= {"head_ip": IP, "worker_ips": [WORKER]}
    (home / "up.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    up = ray(env, "up", "-y", "--no-config-cache", home / "up.yaml")
    assert up.returncode == 0, up.stdout[-4000:] + up.stderr[-4000:]
    token = (home / "laptop/.raysim/ray/auth_token").read_text()
    assert token not in up.stdout + up.stderr
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((IP, PORT + 1), timeout=10)  # the dashboard is on 127.0.0.1 only
    assert requests.get(f"{DASHBOARD}/api/version", timeout=60).status_code == 401
    assert both_up(token) == {IP: 0, WORKER: 3}  # the head is without clients
    for address in (IP, WORKER):
        there = home / address
        assert (there / ".ray/auth_token").read_text() == token
        assert (there / ".ray/auth_token").stat().st_mode & 0o777 == 0o600
        installed = (there / "installed").read_text().splitlines()
        assert any(line.endswith(f"{there}/raysim") for line in installed)
        for name in ("pyproject.toml", "raysim/__init__.py", "tuning/__init__.py", "cluster/setup.sh"):
            assert (there / "raysim" / name).exists()
    assert (
        f"--constraint {home / WORKER}/raysim/cluster/versions.txt"
        in (home / WORKER / "installed").read_text()
    )
    before = (home / IP / "stopped").read_text()
    assert ray(env, "down", "-y", home / "up.yaml").returncode == 0
    assert (
        len((home / IP / "stopped").read_text()) == len(before) + 1
    )  # Ray on the head; the worker's misses it


def both_up(token):
    """CPUs by address, once there are two nodes."""
    ask = {"headers": {"Authorization": f"Bearer {token}"}, "params": {"detail": "1"}, "timeout": 60}
    deadline = time.monotonic() + 300
    while True:
        answer = requests.get(f"{DASHBOARD}/api/v0/nodes", **ask).json()
        found = answer["data"]["result"]["result"] if answer.get("data") else []
        if len(found) == 2 or time.monotonic() > deadline:
            return {node["node_ip"]: node["resources_total"].get("CPU", 0) for node in found}
        time.sleep(0.3)


def ray(env, *words):
    """A `ray` command on the laptop, in the repository's root."""
    command = [str(BIN / "ray"), *map(str, words)]
    return subprocess.run(
        command, env=env, cwd=FOLDER.parent, capture_output=True, text=True, timeout=240, check=False
    )
