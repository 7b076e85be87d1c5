"""A run's folder brought here: packed by a job, copied from storage, never over another run."""

import io
import json
import tarfile

import pytest

import raysim as rs
from raysim.service import fetching, handing
from tests.experiments import digits, same
from tests.service.fakes import FakeCluster, line


class Handing(FakeCluster):
    """A cluster whose jobs pack a folder at once, as handing.py does."""

    def __init__(self, logs):
        super().__init__()
        self.logs, self.cut = logs, 0

    def submit(self, id, entrypoint, runtime_env, metadata):
        assert "-m raysim.service.handing" in entrypoint
        assert super().submit(id, entrypoint, runtime_env, metadata)
        request, file = self.sent[id]["request"], self.logs / f"{id}.tar.gz"
        try:
            handing.pack(request["folder"], file, request["checkpoints"])
        except rs.ConfigError as error:
            self.logged[id] = line("failed", text=str(error))
        else:
            self.logged[id] = line("ready", file=file.name, bytes=file.stat().st_size)
        return True

    def download(self, node, name, file):
        content = (self.logs / name).read_bytes()
        file.write_bytes(content[: len(content) - self.cut])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of six rounds that was stopped after three."""
    folder = tmp_path_factory.mktemp("cluster") / "run"
    digits(rounds=3, checkpoint_every=2).run(folder)
    text = (folder / "experiment.yaml").read_text().replace("rounds: 3", "rounds: 6")
    (folder / "experiment.yaml").write_text(text)
    status = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(status | {"status": "stopped", "rounds": 6}))
    (folder / "checkpoints" / "000009.tmp").mkdir()
    (folder / "checkpoints" / "000009.tmp" / "half").write_text("")
    return folder


@pytest.fixture
def cluster(tmp_path):
    (tmp_path / "logs").mkdir()
    return Handing(tmp_path / "logs")


def test_through_the_cluster_and_on_from_there(run, cluster, tmp_path):
    to = fetching.fetch(cluster, str(run), tmp_path / "here", True)
    assert sorted(f.name for f in (to / "checkpoints").iterdir()) == ["000002", "000003"]
    assert not (to / "packed.tar.gz").exists()
    assert same(digits(rounds=6, checkpoint_every=2).run(None), rs.resume(to))
    (id,) = cluster.sent
    assert cluster.stopped == [id]
    with pytest.raises(rs.ConfigError, match="is further than the cluster's"):
        fetching.fetch(cluster, str(run), to, True)


@pytest.mark.parametrize("checkpoints", [False, True])
def test_from_storage_that_this_machine_reaches(run, tmp_path, checkpoints):
    to = fetching.fetch(None, f"file://{run}", tmp_path / "here", checkpoints)
    assert (to / "metrics.jsonl").read_bytes() == (run / "metrics.jsonl").read_bytes()
    assert (to / "checkpoints").exists() == checkpoints
    assert not (to / "checkpoints" / "000009.tmp").exists()
    assert fetching.fetch(None, f"file://{run}", to, checkpoints) == to  # an earlier state of the same run


def test_checkpoints_that_are_here_stay_until_others_come(run, tmp_path):
    to = fetching.fetch(None, f"file://{run}", tmp_path / "here", True)
    (to / "checkpoints" / "000001").mkdir()
    fetching.fetch(None, f"file://{run}", to, False)
    assert sorted(f.name for f in (to / "checkpoints").iterdir()) == ["000001", "000002", "000003"]
    fetching.fetch(None, f"file://{run}", to, True)
    assert sorted(f.name for f in (to / "checkpoints").iterdir()) == ["000002", "000003"]


def test_storage_that_only_the_cluster_reaches(run, cluster, tmp_path, monkeypatch):
    def refused(*_):
        raise rs.ConfigError("s3://bucket: no credentials")

    monkeypatch.setattr(handing, "copy", refused)
    with pytest.raises(rs.ConfigError, match="no credentials"):
        fetching.fetch(None, f"file://{run}", tmp_path / "here", False)
    with pytest.raises(rs.ConfigError, match="no credentials"):  # which the job says, as it has none either
        fetching.fetch(cluster, f"file://{run}", tmp_path / "here", False)
    assert len(cluster.sent) == len(cluster.stopped) == 1
    with pytest.raises(rs.ConfigError, match="name the cluster with --address"):
        fetching.fetch(None, str(run), tmp_path / "here", False)


def test_nothing_there_and_half_of_it(run, cluster, tmp_path):
    with pytest.raises(rs.ConfigError, match=r"nowhere is not a run's folder: it has no run.json"):
        fetching.fetch(cluster, str(tmp_path / "nowhere"), tmp_path / "here", False)
    cluster.cut = 10
    with pytest.raises(rs.ConfigError, match="Only a part"):
        fetching.fetch(cluster, str(run), tmp_path / "here", False)
    assert not (tmp_path / "here").exists()
    assert len(cluster.stopped) == 2


def test_the_job_that_packs_fails(run, cluster, tmp_path, monkeypatch):
    def lost(self, id, *_):
        self.put(id, "FAILED", message="no node", metadata={})

    monkeypatch.setattr(Handing, "submit", lost)
    with pytest.raises(rs.ConfigError, match="The job that packs the folder failed: no node"):
        fetching.fetch(cluster, str(run), tmp_path / "here", False)


def test_what_is_in_the_way_stays(run, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    with pytest.raises(rs.ConfigError, match="is not empty, and no run"):
        fetching.fetch(None, f"file://{run}", other, False)
    digits(rounds=1).run(tmp_path / "another")
    with pytest.raises(rs.ConfigError, match="holds another run"):
        fetching.fetch(None, f"file://{run}", tmp_path / "another", False)


def test_an_archive_writes_plain_files_below_its_folder_only(tmp_path):
    file, root = tmp_path / "bad.tar.gz", tmp_path / "root"
    with tarfile.open(file, "w:gz") as tar:
        for name in ("../escaped", "/tmp/rj-escaped", "fine/x"):
            member = tarfile.TarInfo(name)
            member.size = 1
            tar.addfile(member, io.BytesIO(b"x"))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(link)
    fetching.unpack(file, root)
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()] == [
        "bad.tar.gz",
        "root/fine/x",
    ]
    assert not (root / "link").exists()
