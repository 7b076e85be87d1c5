"""A cluster that only remembers what was asked of it."""

import json
from dataclasses import replace
from pathlib import Path

from raysim.service.cluster import Job
from raysim.service.packing import REQUEST


class FakeCluster:
    """Jobs stay as the test puts them; what a job was sent with is in ``sent``."""

    address = "http://fake:8265"

    def __init__(self):
        self.known, self.logged, self.sent, self.stopped = {}, {}, {}, []
        self.before_submit = lambda: None

    def put(self, id, status="RUNNING", log="", **fields):
        """A job, and its log."""
        fields = {
            "metadata": {"raysim": "1", "folder": f"/runs/{id}", "rounds": "9"},
            "node": "n",
            "start": 1e9,
        } | fields
        self.known[id] = Job(id, status, **fields)
        self.logged[id] = log
        return self.known[id]

    def set(self, id, **fields):
        self.known[id] = replace(self.known[id], **fields)

    def jobs(self):
        return [job for job in self.known.values() if "raysim" in job.metadata]

    def job(self, id):
        return self.known.get(id)

    def submit(self, id, entrypoint, runtime_env, metadata):
        self.before_submit()
        if id in self.known:
            return False
        folder = Path(runtime_env["working_dir"])
        files = {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
        request = json.loads(files[REQUEST])
        self.sent[id] = {"files": files, "request": request, "entrypoint": entrypoint, "env": runtime_env}
        self.put(id, "PENDING", metadata=metadata)
        return True

    def stop(self, id):
        self.stopped.append(id)

    def log(self, job, lines=-1):
        return self.logged[job.id]


def line(event, run="x", **facts):
    """A line of a job's log."""
    return json.dumps({"time": "2026-01-02T03:04:05+00:00", "run": run, "event": event, **facts}) + "\n"
