"""One small Ray for each process of the session, its own token and temporary folder; one torch thread everywhere."""

import atexit
import os
import secrets
import shutil
import signal
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
_HOME = Path(tempfile.mkdtemp(prefix="rs", dir="/tmp" if Path("/tmp").exists() else None))
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
(_HOME / "token").write_text(secrets.token_hex(32))
os.environ |= {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN_PATH": str(_HOME / "token"),
    "RAY_TMPDIR": str(_HOME),
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # ignored where pytest runs in several processes, and inherited

import pytest  # noqa: E402 (the environment must stand before anything imports torch or ray)
import torch  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def ray_session():
    """A local Ray with four logical CPUs and no GPU."""
    import ray

    ray.init(
        address="local",
        num_cpus=4,
        num_gpus=0,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=200_000_000,
    )
    yield
    ray.shutdown()
