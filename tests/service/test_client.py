"""A cluster behind its dashboard: what Ray's client answers, in plain terms, and connections that break."""

import asyncio
import os
import signal
from types import SimpleNamespace

import pytest
import requests

import raysim as rs
from raysim.service import cluster as clusters
from raysim.service.cluster import Cluster, Job


class Answer:
    def __init__(self, status, content=b""):
        self.status_code, self.content, self.text = status, content, content.decode()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def iter_content(self, _):
        return iter([self.content[:3], self.content[3:]])


class FakeRay:
    """Ray's client with prepared answers."""

    def __init__(self):
        self.answers, self.known, self.asked, self.tails = {}, [], [], []

    def _do_request(self, method, path, **options):
        self.asked.append((path, options.get("params")))
        answer = self.answers[path]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def list_jobs(self):
        return self.known

    def get_job_info(self, id):
        return next(details for details in self.known if details.submission_id == id)

    def submit_job(self, **_):
        raise RuntimeError("Request failed with status code 500: Job already exists")

    async def tail_job_logs(self, _):
        for text in self.tails.pop(0):
            if isinstance(text, Exception):
                raise text
            if text is signal.SIGINT:
                asyncio.get_running_loop().call_soon(signal.raise_signal, text)
                await asyncio.sleep(600)
            yield text


def details(id, status="RUNNING", **fields):
    fields = {
        "message": None, "error_type": None, "driver_exit_code": None, "start_time": 1_500, "end_time": None,
        "metadata": {"raysim": "1"}, "driver_node_id": "n",
    } | fields  # fmt: skip
    return SimpleNamespace(submission_id=id, status=SimpleNamespace(value=status), **fields)


@pytest.fixture
def cluster():
    found = Cluster.__new__(Cluster)
    found.address, found._ray = "http://here:1", FakeRay()
    return found


def test_jobs_are_raysims_own_in_their_order(cluster):
    cluster._ray.known = [
        details("late", start_time=9_000),
        details("early", "FAILED", driver_exit_code=-9, end_time=2_500, message="killed"),
        details("theirs", metadata={}),
        details(None),
    ]
    early, late = cluster.jobs()
    assert early == Job("early", "FAILED", "killed", None, -9, 1.5, 2.5, {"raysim": "1"}, "n")
    assert (late.id, late.over, early.over) == ("late", False, True)


def test_a_job_that_is_not_there(cluster):
    cluster._ray.answers["/api/jobs/x"] = Answer(404)
    assert cluster.job("x") is None


def test_a_taken_id_is_no_error_and_a_refusal_is(cluster):
    cluster._ray.known = [details("x")]
    cluster._ray.answers |= {"/api/jobs/x": Answer(200), "/api/jobs/y": Answer(404)}
    assert cluster.submit("x", "true", {}, {}) is False
    with pytest.raises(rs.ConfigError, match=r"http://here:1 does not take the job: .*500"):
        cluster.submit("y", "true", {}, {})


def test_odd_ids_ask_for_nothing_else(cluster):
    for id in ("", "..", "."):
        assert cluster.job(id) is None
    for id, path in (("../version", "..%2Fversion"), ("a?b=1#c", "a%3Fb%3D1%23c"), ("a b", "a%20b")):
        cluster._ray.answers[f"/api/jobs/{path}"] = Answer(404)
        assert cluster.job(id) is None
    assert len(cluster._ray.asked) == 3


def test_what_rays_client_raises_is_one_paragraph(cluster, monkeypatch):
    job = Job("x", "RUNNING", node="n")
    cluster._ray.answers["/api/v0/logs/file"] = requests.ConnectionError("Connection refused")
    with pytest.raises(
        rs.ConfigError, match=r"connection to http://here:1 broke \(Connection refused\).*tunnel"
    ):
        cluster.log(job)
    monkeypatch.setattr(cluster._ray, "list_jobs", lambda: cluster._ray.submit_job())
    with pytest.raises(rs.ConfigError, match=r"here:1 does not list its jobs: Request failed .* exists\.$"):
        cluster.jobs()
    no_agent = RuntimeError("status code 500: No available agent to submit job, please try again later..")
    cluster._ray.answers["/api/jobs/x"] = no_agent
    with pytest.raises(
        rs.ConfigError, match=r"try again later\. The head's dashboard agent .* port is taken"
    ):
        cluster.job("x")


def test_ctrl_c_ends_following_and_not_the_connection_alone(cluster):
    cluster._ray.tails, told = [["one\n", signal.SIGINT]], []
    with pytest.raises(KeyboardInterrupt):
        cluster.follow("x", told.append)
    assert told == ["one\n"]


def test_the_end_of_a_log(cluster):
    cluster._ray.answers["/api/v0/logs/file"] = Answer(200, b"line\n")
    assert cluster.log(Job("x", "RUNNING", node="n"), 5) == "line\n"
    assert cluster._ray.asked[0][1] == {
        "node_id": "n",
        "filename": "job-driver-x.log",
        "lines": 5,
        "timeout": 60,
    }
    cluster._ray.answers["/api/v0/logs/file"] = Answer(500, b"gone")
    assert cluster.log(Job("x", "RUNNING", node="n")) == ""
    assert cluster.log(Job("x", "PENDING")) == ""


def test_a_file_among_the_logs(cluster, tmp_path):
    cluster._ray.answers["/api/v0/logs/file"] = Answer(200, b"packed")
    cluster.download("n", "x.tar.gz", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"packed"
    cluster._ray.answers["/api/v0/logs/file"] = Answer(500, b"A file is not found")
    with pytest.raises(rs.ConfigError, match=r"does not hand over x.tar.gz: A file is not found"):
        cluster.download("n", "x.tar.gz", tmp_path / "x")


def test_a_log_is_followed_over_a_connection_that_breaks(cluster, monkeypatch):
    monkeypatch.setattr(clusters, "PAUSE", 0.0)
    broken = RuntimeError("WebSocket connection closed unexpectedly")
    cluster._ray.tails = [["one\n", "two\n", broken], [broken], ["one\ntw", "o\nthree\n"]]
    told = []
    cluster.follow("x", told.append)
    assert "".join(told) == "one\ntwo\nthree\n"
    cluster._ray.tails = [[OSError("refused")] for _ in range(clusters.PATIENCE + 1)]
    with pytest.raises(
        rs.ConfigError, match=r"The connection to http://here:1 broke: refused.*raysim logs x --follow"
    ):
        cluster.follow("x", told.append)
    assert cluster._ray.tails == []


def test_rays_own_variables_do_not_turn_a_named_address(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere")
    with clusters._nothing_else_named():
        assert "RAY_ADDRESS" not in os.environ
    assert os.environ["RAY_ADDRESS"] == "elsewhere"
