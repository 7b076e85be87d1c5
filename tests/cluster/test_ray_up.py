"""`ray up cluster/local.yaml` from a laptop's folder to a node's, by an ssh and an rsync that stay on this machine."""

import os
import secrets
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

from tests.cluster.fake_cloud import IP, end
from tests.cluster.launchers import FOLDER, launcher

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

PORT = 24200
BIN = Path(sys.executable).parent

SSH = """#!/bin/bash
while [[ "$1" != *@* ]]; do shift; done    # options, up to user@address
shift
cd "$NODE_HOME" && HOME=$NODE_HOME exec bash -c "$*"
"""
RSYNC = """#!/bin/bash
from=${@: -2:1} to=${@: -1}
to=${to#*:}
to=${to/#\\~/$NODE_HOME}
if [ -f "$from/cluster/aws.yaml" ]; then mkdir -p "$to" && cp -r cluster pyproject.toml "$to"   # enough of a checkout
elif [ -d "$from" ]; then mkdir -p "$to" && cp -r "$from/." "$to"
else mkdir -p "$(dirname "$to")" && cp "$from" "$to"; fi
"""
RAY = """#!/bin/bash
[ "$1" = stop ] && exit 0                  # it would end every Ray on this machine
[ "$1" = start ] && set -- "$@" {options}
exec {ray} "$@"
"""
UV = '#!/bin/sh\necho "uv $*" >> $HOME/installed\n'


def script(path, content):
    """An executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(0o755)


@pytest.fixture
def laptop():
    """Environment of somebody's laptop, beside a node with nothing on it but what `uv` would have installed."""
    with tempfile.TemporaryDirectory(prefix="ru", dir="/tmp", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        script(home / "bin/ssh", SSH)
        script(home / "bin/rsync", RSYNC)
        script(home / "node/.local/bin/uv", UV)
        options = f"--temp-dir={home}/ray --node-ip-address={IP} --port={PORT} --dashboard-port={PORT + 1}"
        options += f" --ray-client-server-port={PORT + 2} --dashboard-agent-listen-port={PORT + 3}"
        options += f" --metrics-export-port={PORT + 4} --object-store-memory=80000000"
        script(home / "node/raysim-env/bin/ray", RAY.format(options=options, ray=BIN / "ray"))
        script(home / "node/raysim-env/bin/python", f'#!/bin/sh\nexec {BIN}/python "$@"\n')
        (home / "laptop/.ssh").mkdir(parents=True)
        (home / "laptop/.ssh/id_ed25519").write_text("none")
        (home / "laptop/.raysim/ray").mkdir(parents=True)
        (home / "laptop/.raysim/ray/auth_token").write_text(secrets.token_hex(32))
        env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
            "HOME": str(home / "laptop"),
            "NODE_HOME": str(home / "node"),
            "PATH": f"{home}/bin:{BIN}:/usr/bin:/bin",
            "RAY_TMPDIR": str(home / "ray"),
            "PYTHONPATH": str(FOLDER.parent),
            "RAY_UP_enable_autoscaler_v2": "1",
        }
        (home / "ray").mkdir()
        try:
            yield home, env
        finally:
            end(home)


def test_from_laptop_to_node(laptop):
    home, env = laptop
    config = launcher("local")
    config["provider"] |= {"head_ip": IP, "worker_ips": []}
    (home / "up.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    up = ray(env, "up", "-y", "--no-config-cache", home / "up.yaml")
    assert up.returncode == 0, up.stdout[-4000:] + up.stderr[-4000:]
    token = home / "node/.ray/auth_token"
    assert token.read_text() == (home / "laptop/.raysim/ray/auth_token").read_text()
    assert token.stat().st_mode & 0o777 == 0o600
    assert token.read_text() not in up.stdout + up.stderr
    assert (home / "node/installed").read_text().endswith(f"{home}/node/raysim\n")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((IP, PORT + 1), timeout=10)  # the dashboard is on 127.0.0.1 only
    code = "import ray; ray.init(logging_level='ERROR'); print('CPUs', ray.cluster_resources().get('CPU', 0))"
    submit = ["job", "submit", "--address", f"http://127.0.0.1:{PORT + 1}", "--", "python", "-c", code]
    refused = ray(env, *submit)
    assert refused.returncode != 0
    assert "oken authentication is enabled" in refused.stderr
    with_token = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(home / "laptop/.raysim/ray/auth_token"),
    }
    done = ray(env | with_token, *submit)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "CPUs 0" in done.stdout
    assert ray(env, "down", "-y", home / "up.yaml").returncode == 0


def ray(env, *words):
    """A `ray` command on the laptop, in the repository's root."""
    command = [str(BIN / "ray"), *map(str, words)]
    return subprocess.run(
        command, env=env, cwd=FOLDER.parent, capture_output=True, text=True, timeout=240, check=False
    )
