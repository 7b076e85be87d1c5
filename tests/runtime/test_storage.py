"""A run's folder behind a URL: the same files as on a disk, resumable to the same bits, and refusals in plain words."""

import json

import fsspec
import pytest

import raysim as rs
from raysim.runtime import storage
from tests.experiments import digits, same
from tests.runtime import moody
from tests.runtime.moody import Moody

URL = "moody://bucket/runs/x"
pytestmark = pytest.mark.usefixtures("moody_storage")
KEPT = rs.Local(optimizer=rs.optimizers.SGD(lr=0.05, momentum=0.9), epochs=1, batch_size=8, keep_state=True)


# ---- what is where -------------------------------------------------------------------------------------------


def test_a_url_has_the_files_of_a_folder_and_no_working_folder_stays(tmp_path):
    sim = digits(rounds=4, checkpoint_every=1, local=KEPT)
    expected = sim.run(tmp_path / "run")
    result = sim.run(URL)
    assert same(expected, result)
    assert (result.folder, result.label) == (URL, "x")
    local = [str(f.relative_to(tmp_path / "run")) for f in (tmp_path / "run").rglob("*") if f.is_file()]
    assert moody.names("bucket/runs/x") == sorted(local)
    assert [f.name for f in tmp_path.iterdir()] == ["run"]
    status = json.loads(storage.text(URL, "run.json"))
    assert (status["status"], status["round"]) == ("finished", 4)


def test_results_are_read_back_from_a_url(tmp_path):
    result = digits(rounds=2).run(URL)
    back = rs.Result.read(URL + "/")
    assert same(result, back)
    assert back.folder == URL
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_comes_last_and_goes_first():
    digits(rounds=3, checkpoint_every=1, local=KEPT).run(URL)
    asked = [(what, p.removeprefix("/bucket/runs/x/")) for what, p in Moody.seen]
    for round in (1, 2, 3):
        name = f"checkpoints/00000{round}"
        written = [p for what, p in asked if what == "write" and (name in p or p == "metrics.jsonl")]
        last = written.index(f"{name}/manifest.json")
        assert {f"{name}/server.safetensors", f"{name}/rows-0.safetensors"} <= set(written[:last])
        assert written[last - 3] == "metrics.jsonl"  # what it is worth is there before it
        assert name not in "".join(written[last + 1 :])
    there = asked.index(("write", "checkpoints/000001/manifest.json"))
    gone = [p for what, p in asked[there:] if what == "delete" and "000001" in p]
    assert gone[0] == "checkpoints/000001/manifest.json"
    assert "checkpoints/000001/server.safetensors" in gone


def test_a_file_url_never_shows_half_a_file(tmp_path):
    sim = digits(rounds=2, checkpoint_every=1)
    url = f"file://{tmp_path}/there/x"
    assert same(sim.run(None), sim.run(url))
    assert not list((tmp_path / "there").rglob("*.tmp"))
    assert same(sim.run(None), rs.Result.read(tmp_path / "there" / "x"))  # a folder like any other


# ---- resuming ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 1, 5, 8])
def test_a_run_cut_off_anywhere_is_resumed_from_its_url_to_the_same_bits(after):
    """The machine dies: nothing is left but what the storage has by then."""
    sim = digits(rounds=6, checkpoint_every=2, local=KEPT)
    moody.refuse(KeyboardInterrupt(), path="runs/x/checkpoints", after=after)
    with pytest.raises(KeyboardInterrupt):
        sim.run(URL)
    Moody.refuse = staticmethod(lambda what, path: None)
    assert json.loads(storage.text(URL, "run.json"))["status"] == "running"
    result = rs.resume(URL)
    assert same(sim.run(None), result)
    assert same(result, rs.Result.read(URL))


def test_half_a_checkpoint_is_no_checkpoint():
    sim = digits(rounds=5, checkpoint_every=2, local=KEPT)
    sim.replaced(rounds=4).run(URL)
    fs = fsspec.filesystem("moody")
    fs.rm_file("/bucket/runs/x/checkpoints/000004/rows-0.safetensors")
    assert same(sim.run(None), rs.resume(URL, sim))
    fs.pipe_file("/bucket/runs/x/checkpoints/000005/manifest.json", b'{"round": 5, "ro')
    assert same(sim.replaced(rounds=6).run(None), rs.resume(URL, sim.replaced(rounds=6)))


def test_what_ended_or_never_was_is_not_resumed():
    digits(rounds=1).run(URL)
    with pytest.raises(rs.ConfigError, match=r"moody://bucket/runs/x has finished all its 1 rounds"):
        rs.resume(URL)
    with pytest.raises(rs.ConfigError, match=r"not a run's folder: it has no run\.json"):
        rs.resume("moody://bucket/runs/none")
    with pytest.raises(
        rs.ConfigError, match=r"moody://bucket/runs/x holds a run already.*raysim resume moody://"
    ):
        digits(rounds=1).run(URL)


# ---- the command line ----------------------------------------------------------------------------------------


def test_commands_take_urls(tmp_path, capsys, monkeypatch):
    from raysim.cli import main

    def code(*words):
        with pytest.raises(SystemExit) as end:
            main(list(words))
        return end.value.code, capsys.readouterr()

    monkeypatch.chdir(tmp_path)
    sim = digits(rounds=2, checkpoint_every=1)
    (tmp_path / "e.yaml").write_text(sim.to_yaml())
    assert code("run", "e.yaml", "--quiet", "--folder", URL)[0] == 0
    assert code("run", "e.yaml", "--quiet", "--folder", "moody://bucket/other/x")[0] == 0
    assert code("plot", URL, "--out", "a.png")[0] == 0
    number, said = code("compare", URL, "moody://bucket/other/x", "--out", "b.png")
    assert number == 0
    assert "moody://bucket" in said.out.replace("\n", "")  # whole URLs, where the last words are the same
    assert (tmp_path / "a.png").exists()
    assert (tmp_path / "b.png").exists()
    number, said = code("resume", URL)
    assert number == 2
    assert "has finished all its 2 rounds" in said.err
    number, said = code("plot", "moody://bucket/none")
    assert number == 2
    assert "no run.json" in said.err
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a.png", "b.png", "e.yaml"]
