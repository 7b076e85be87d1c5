"""A real autoscaling Ray cluster on this machine: Ray's own autoscaler over a provider that starts local raylets."""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

IP = "127.0.0.2"  # loopback that Ray does not replace by the machine's own address
HEAD = "f" * 51 + "00000"  # what the fake provider calls the head
PROVIDER = "tests.cluster.provider.Loopback"
SAID = "said: "  # marks what a driver says among what Ray prints
STORE = 80_000_000  # bytes of object store per node


def node_type(cpus, most, **changes):
    """A worker type of the fake cloud."""
    fields = {"min_workers": 0, "max_workers": most, "node_config": {}}
    return fields | {"resources": {"CPU": cpus, "object_store_memory": STORE}} | changes


class FakeCloud:
    """A head without CPUs and an autoscaler that adds nodes where they are asked for, and takes them away.

    Args:
        home: folder for everything; short, for sockets live in it.
        port: the head's; the few that follow it are used as well.
        types: worker node types by name.
        provider: class of the node provider.
        idle: minutes until an idle node goes.
    """

    def __init__(self, home, port, types, provider=PROVIDER, idle=10.0):
        self.home, self.address, self.idle = Path(home), f"{IP}:{port}", idle
        self.port, self.types, self.provider = port, types, provider

    def __enter__(self):
        token, config = self.home / "token", self.home / "cloud.yaml"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        config.write_text(yaml.safe_dump(self._config()))
        root = str(Path(__file__).parents[2])
        self.env = os.environ | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_TMPDIR": str(self.home),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ADDRESS": self.address,
            "RAYSIM_TEST_NO_MAILBOX": "1",
            "RAYSIM_TEST_MARK": str(self.home / "mark"),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]),
        }
        head = {
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": HEAD,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
            "RAY_FAKE_CLUSTER": "1",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_worker_niceness": "0",
            "RAY_health_check_initial_delay_ms": "1000",
            "RAY_health_check_period_ms": "500",
        }
        command = [str(Path(sys.executable).with_name("ray")), "start", "--head"]
        command += [f"--autoscaling-config={config}", f"--node-ip-address={IP}", f"--port={self.port}"]
        command += [f"--dashboard-port={self.port + 1}", f"--ray-client-server-port={self.port + 2}"]
        command += [
            f"--dashboard-agent-listen-port={self.port + 3}",
            f"--metrics-export-port={self.port + 4}",
        ]
        command += [
            "--num-cpus=0",
            "--num-gpus=0",
            f"--object-store-memory={STORE}",
            f"--temp-dir={self.home}",
        ]
        command += ["--include-dashboard=false", "--disable-usage-stats"]
        env = {k: v for k, v in self.env.items() if k != "RAY_ADDRESS"} | head
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=False)
        if done.returncode:
            self.__exit__()
            raise RuntimeError(done.stdout + done.stderr)
        return self

    def _config(self):
        head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
        provider = {
            "type": "external",
            "module": self.provider,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "gcs_address": self.address,
            "launch_multiple": True,
            "head_node_id": HEAD,
        }
        empty = ["initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands"]
        empty += ["head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files"]
        return {
            "cluster_name": "fake",
            "max_workers": sum(t["max_workers"] for t in self.types.values()),
            "idle_timeout_minutes": self.idle,
            "provider": provider,
            "available_node_types": {"ray.head.default": head} | self.types,
            "head_node_type": "ray.head.default",
            "file_mounts": {},
        } | {key: [] for key in empty}

    def __exit__(self, *_):
        end(self.home)

    def run(self, code, *arguments, timeout=700):
        """What Python code on this cluster prints after ``SAID``, as JSON."""
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        said = [line[len(SAID) :] for line in done.stdout.splitlines() if line.startswith(SAID)]
        return json.loads(said[-1])


def pids_of(home):
    """Processes whose command line names a folder, other than this one."""
    mark, found = str(home), []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if mark in line and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


def end(home):
    """End what was started there and nothing else: every process whose command line names the folder."""
    deadline = time.time() + 20
    while (pids := pids_of(home)) and time.time() < deadline:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def parent_of(pid):
    """A process's parent."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def raylet_of(pid):
    """The raylet that a worker process belongs to: its node."""
    parent = parent_of(pid)
    line = Path(f"/proc/{parent}/cmdline").read_bytes()
    assert b"raylet" in line, line
    return parent


def children_of(parent):
    """Processes that a process has started."""
    return [int(t) for t in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def lose(raylet):
    """A node is lost at once and without a word: its raylet and all of its workers."""
    for pid in [raylet, *children_of(raylet)]:
        os.kill(pid, signal.SIGKILL)
