"""A cluster as the laptop sees it: its jobs, their logs, a file, all through the dashboard."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from raysim.core.plugin import ConfigError
from raysim.service import connection

LONG = 120.0  # seconds for an answer
PAUSE = 1.0  # seconds before the first new connection
PATIENCE = 5  # connections lost one after the other before following a log is given up
_TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)


_NO_AGENT = (
    " The head's dashboard agent starts seconds after the head. If it never does, its port is taken, as by another Ray "
    "on that machine (dashboard_agent.log says so): give it another with `ray start --dashboard-agent-listen-port`."
)


@dataclass(frozen=True)
class Job:
    """A job as Ray knows it.

    Args:
        id: submission id.
        status: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED.
        message: what Ray says about it.
        error: Ray's kind of error, None if there was none.
        code: its command's exit code, None while it runs or if Ray does not know.
        start: seconds since 1970.
        end: seconds since 1970, None while it runs.
        metadata: what was submitted with it.
        node: where its command runs.
    """

    id: str
    status: str
    message: str = ""
    error: str | None = None
    code: int | None = None
    start: float | None = None
    end: float | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    node: str | None = None

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.status in ("STOPPED", "SUCCEEDED", "FAILED")


class Jobs(Protocol):
    """What the rest of this folder asks of a cluster."""

    address: str

    def jobs(self) -> list[Job]:
        """All jobs that raysim submitted."""
        ...

    def job(self, id: str) -> Job | None:
        """One of them."""
        ...

    def submit(self, id: str, entrypoint: str, runtime_env: dict[str, Any], metadata: dict[str, str]) -> bool:
        """Submit a job; False if there is one of that id."""
        ...

    def stop(self, id: str) -> None:
        """Ask a job to end."""
        ...

    def log(self, job: Job, lines: int = -1) -> str:
        """The last lines of a job's log, or all of it."""
        ...

    def follow(self, id: str, tell: Callable[[str], None]) -> None:
        """Pass a job's log on, chunk by chunk, until it ends."""
        ...

    def download(self, node: str, name: str, file: Path) -> None:
        """Fetch a file from among a node's logs."""
        ...


class Cluster:
    """A Ray cluster behind its dashboard.

    Args:
        address: of the dashboard; None takes it from the environment.

    Raises:
        ConfigError: it cannot be reached.
    """

    def __init__(self, address: str | None = None) -> None:
        self.address = connection.address_of(address)
        bearer = connection.headers(self.address)
        with _nothing_else_named(), self._understood("list its jobs"):
            self._ray = _client(self.address, bearer)

    def jobs(self) -> list[Job]:
        """All jobs that raysim submitted, the oldest first."""
        with self._understood("list its jobs"):
            found = [_job(details) for details in self._ray.list_jobs() if details.submission_id]
        return sorted((job for job in found if "raysim" in job.metadata), key=lambda job: job.start or 0.0)

    def job(self, id: str) -> Job | None:
        """One of them, None if the cluster does not know it."""
        if not id.strip("."):  # which a URL takes for another place
            return None
        with self._understood(f"tell of {id}"):
            known = quote(id, safe="")
            answer = self._ray._do_request("GET", f"/api/jobs/{known}")
            return None if answer.status_code == 404 else _job(self._ray.get_job_info(known))

    def submit(self, id: str, entrypoint: str, runtime_env: dict[str, Any], metadata: dict[str, str]) -> bool:
        """Submit a job; False if there is one of that id, also if it came in between.

        Raises:
            ConfigError: the cluster refuses it.
        """
        with self._understood("take the job"):
            try:
                self._ray.submit_job(
                    entrypoint=entrypoint, submission_id=id, runtime_env=runtime_env, metadata=metadata
                )
            except RuntimeError:  # Ray has one error for everything
                if self.job(id) is None:
                    raise
                return False
        return True

    def stop(self, id: str) -> None:
        """Ask a job to end."""
        with self._understood(f"stop {id}"):
            self._ray.stop_job(quote(id, safe=""))

    def log(self, job: Job, lines: int = -1) -> str:
        """The last lines of a job's log, or all of it; empty if it is gone.

        Args:
            job: whose.
            lines: how many, -1 for all.
        """
        if job.node is None:
            return ""
        asked = {"node_id": job.node, "filename": f"job-driver-{job.id}.log", "lines": lines, "timeout": 60}
        with self._understood("show its logs"):
            answer = self._ray._do_request("GET", "/api/v0/logs/file", params=asked)
        return answer.content.decode(errors="replace") if answer.status_code == 200 else ""

    def follow(self, id: str, tell: Callable[[str], None]) -> None:
        """Pass a job's log on until it ends; a connection that breaks is made anew, where it broke.

        Args:
            id: the job.
            tell: called with each chunk of text.

        Raises:
            ConfigError: the connection breaks again and again.
        """
        from aiohttp import ClientError

        seen, lost = 0, 0
        while True:
            try:
                for text in _chunks(self._ray, id, seen):
                    seen, lost = seen + len(text), 0
                    tell(text)
            except (RuntimeError, OSError, ClientError) as error:
                lost += 1
                if lost > PATIENCE:
                    raise ConfigError(
                        f"The connection to {self.address} broke: {connection.reason(error)}. The run may go on: "
                        f"raysim logs {id} --follow"
                    ) from None
                time.sleep(lost * PAUSE)
                continue
            return

    def download(self, node: str, name: str, file: Path) -> None:
        """Fetch a file from among a node's logs.

        Args:
            node: its id.
            name: the file's name there.
            file: where to write it.

        Raises:
            ConfigError: it is not there.
        """
        asked = {"node_id": node, "filename": name, "lines": -1, "timeout": 3600}
        with (
            self._understood(f"hand over {name}"),
            self._ray._do_request("GET", "/api/v0/logs/file", params=asked, stream=True) as answer,
        ):
            if answer.status_code != 200:
                raise ConfigError(f"The cluster does not hand over {name}: {answer.text[:300]}")
            with open(file, "wb") as to:
                for chunk in answer.iter_content(1 << 20):
                    to.write(chunk)

    @contextmanager
    def _understood(self, what: str) -> Iterator[None]:
        """Say in a paragraph what Ray's client raises: a tunnel that broke, a head that refuses."""
        from ray.exceptions import AuthenticationError
        from requests import RequestException

        try:
            yield
        except (RequestException, ConnectionError) as error:
            raise ConfigError(
                f"The connection to {self.address} broke ({connection.reason(error)}). Runs go on without it; look "
                "whether the cluster is up and the tunnel to it, and give the command again."
            ) from None
        except (RuntimeError, AuthenticationError) as error:
            said = " ".join(str(error).split()).rstrip(".")
            advice = _NO_AGENT if "No available agent" in said else ""
            raise ConfigError(f"The cluster at {self.address} does not {what}: {said}.{advice}") from None


def _client(address: str, bearer: dict[str, str]) -> Any:
    """Ray's client, with an end to its patience, which has none, and with the token given here or without any.

    By itself it would send one that it finds to a dashboard that asks for none, or fail for want of it.
    """
    from ray.job_submission import JobSubmissionClient

    for name in _TALKATIVE:  # now: when Ray is imported it sets levels of its own
        logging.getLogger(name).setLevel(logging.WARNING)

    class Client(JobSubmissionClient):
        def _do_request(self, *arguments: Any, **options: Any) -> Any:
            return super()._do_request(*arguments, **({"timeout": (connection.TIMES[0], LONG)} | options))

    client = Client(address, headers=bearer or {"Authorization": ""})
    client._headers = dict(bearer)
    return client


def _job(details: Any) -> Job:
    """Ray's details of a job; its times are in milliseconds."""
    seconds = lambda ms: None if not ms else ms / 1000
    return Job(
        id=details.submission_id,
        status=str(getattr(details.status, "value", details.status)),
        message=details.message or "",
        error=details.error_type,
        code=details.driver_exit_code,
        start=seconds(details.start_time),
        end=seconds(details.end_time),
        metadata=dict(details.metadata or {}),
        node=details.driver_node_id,
    )


def _chunks(ray: Any, id: str, skip: int) -> Iterator[str]:
    """A job's log as it grows, without the first ``skip`` characters."""
    loop, chunks = asyncio.new_event_loop(), ray.tail_job_logs(id)
    try:
        while True:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)  # Ray calls aiohttp as it was
                    text = loop.run_until_complete(anext(chunks))
            except StopAsyncIteration:
                return
            fresh, skip = text[skip:], max(0, skip - len(text))
            if fresh:
                yield fresh
    finally:
        for task in asyncio.all_tasks(
            loop
        ):  # there is one after Ctrl-C: what it runs cannot be closed before it ends
            task.cancel()
            loop.run_until_complete(asyncio.wait([task]))
        loop.run_until_complete(chunks.aclose())
        loop.close()


@contextmanager
def _nothing_else_named() -> Iterator[None]:
    """Hide the variables that Ray's client would follow instead of the address that it is given."""
    hidden = {
        name: os.environ.pop(name) for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS") if name in os.environ
    }
    try:
        yield
    finally:
        os.environ.update(hidden)
