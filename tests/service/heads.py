"""A head node of the tests' own: its own ports, folder and token; ended by its processes' ids."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

PORTS = range(22001, 23000)


def free_ports(number):
    """Ports that nobody listens on, at addresses of this machine."""
    found, begin = [], secrets.randbelow(len(PORTS))
    for i in range(len(PORTS)):
        port = PORTS[(begin + i) % len(PORTS)]
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == number:
            return found
    raise AssertionError("no free ports")


class Head:
    """A running head node.

    Its environment names neither a Python on PATH nor raysim, as a service manager's would: a job has to find them.
    """

    def __init__(self, home, authenticated, cpus=2):
        self.home, self.authenticated = home, authenticated
        self.port, dashboard, client, agent, grpc, metrics = free_ports(6)
        self.address = f"http://127.0.0.1:{dashboard}"
        self.token = secrets.token_hex(32)
        (home / "token").write_text(self.token)
        (home / "token").chmod(0o600)
        (home / "home").mkdir()
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(home / "home"),
            "RAY_TMPDIR": str(home),
            "OMP_NUM_THREADS": "1",
        }
        environment |= {
            k: v for k, v in os.environ.items() if k.startswith("OPENBLAS_")
        }  # the same kernels: same bits
        environment |= (
            {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(home / "token")} if authenticated else {}
        )
        environment |= {} if authenticated else {"RAY_AUTH_MODE": "disabled"}
        options = {
            "node-ip-address": "127.0.0.2",
            "port": self.port,
            "dashboard-host": "127.0.0.1",
            "dashboard-port": dashboard,
            "ray-client-server-port": client,
            "dashboard-agent-listen-port": agent,
            "dashboard-agent-grpc-port": grpc,
            "metrics-export-port": metrics,
            "min-worker-port": 0,
            "max-worker-port": 0,
            "num-cpus": cpus,
            "num-gpus": 0,
            "object-store-memory": 150_000_000,
            "temp-dir": home,
        }
        command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--disable-usage-stats"]
        command += [f"--{name}={value}" for name, value in options.items()]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    @property
    def runs(self):
        """Where its runs are if nobody says otherwise."""
        return self.home / "home" / "raysim-runs"

    def pids(self, words=""):
        """Its processes, those with these words in their command line."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                around = (process / "environ").read_bytes().decode(errors="replace")
            except OSError:
                continue
            mine = f"RAY_TMPDIR={self.home}\0" in around or str(self.home) in line
            if mine and words in line and int(process.name) != os.getpid():
                found.append(int(process.name))
        return found

    def end(self):
        """Kill every process of it."""
        for _ in range(20):
            pids = self.pids()
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            if not pids:
                return
            time.sleep(0.2)


@contextmanager
def head(authenticated=True, cpus=2):
    """A head node, for a while."""
    home = Path(tempfile.mkdtemp(prefix="rj", dir="/tmp"))
    started = None
    try:
        started = Head(home, authenticated, cpus)
        yield started
    finally:
        started = started or Head.__new__(Head)
        started.home = home
        started.end()
        shutil.rmtree(home, ignore_errors=True)
