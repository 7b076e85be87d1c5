"""A sweep's folder: what is removed and what never is, one process at a time, damage, full disks, names."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import raysim as rs
import tuning
from tests.tuning.parts import tiny
from tuning.folder import Folder
from tuning.plan import Plan, read_block
from tuning.population import many
from tuning.sweep import Sweep

LR = "local.optimizer.lr"
OVER = {LR: [0.1, 0.2, 0.3]}


@pytest.fixture
def s(tmp_path):
    """Where a sweep may go: a name that a shell would tear apart."""
    return tmp_path / "a folder"


def swept(folder, over=OVER, **options):
    return tuning.sweep(tiny(rounds=1), over, folder=folder, **options)


def log(folder):
    return folder / "trials.jsonl"


# ---- whose files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_that_only_looks_like_a_sweeps_is_left_alone(s, fresh):
    s.mkdir()
    (s / "sweep.yaml").write_text("mine")
    (s / "thesis.tex").write_text("mine too")
    with pytest.raises(
        rs.ConfigError, match=r"holds no sweep, but files that one would write over: sweep.yaml"
    ):
        swept(s, fresh=fresh)
    assert {p.name: p.read_text() for p in s.iterdir()} == {"sweep.yaml": "mine", "thesis.tex": "mine too"}


def test_fresh_removes_what_a_sweep_writes_and_nothing_else(s):
    swept(s)
    (s / "notes.txt").write_text("mine")
    (s / "tune").mkdir()
    swept(s, {LR: [0.5]}, fresh=True)
    assert (s / "notes.txt").read_text() == "mine"
    assert not (s / "tune").exists()
    assert len(log(s).read_text().splitlines()) == 1


def test_resume_and_fresh_together_and_a_folder_that_is_not_there(s):
    swept(s)
    before = log(s).read_text()
    with pytest.raises(rs.ConfigError, match="leave one of them out"):
        swept(s, resume=True, fresh=True)
    assert log(s).read_text() == before
    typo = s.with_name("a fodler")
    with pytest.raises(rs.ConfigError, match=r"There is no sweep in .* to go on with"):
        swept(typo, resume=True)
    assert not typo.exists()


# ---- several processes ---------------------------------------------------------------------------------------------


def test_looking_at_a_running_sweep_changes_nothing(s):
    seen = []

    def look(line):
        with open(log(s), "a") as half:  # as if a line were being written
            half.write('{"trial": 9')
        seen.append(len(Sweep.read(s).runs))
        os.truncate(log(s), log(s).stat().st_size - len('{"trial": 9'))

    found = swept(s, chunk=1, tell=look)
    assert len(found.runs) == len(Sweep.read(s).runs) == 3
    assert seen[-1] == 3
    with open(log(s), "a") as half:
        half.write('{"trial": 9')
    before = log(s).read_bytes()
    assert len(Sweep.read(s).runs) == 3
    assert log(s).read_bytes() == before
    swept(s, chunk=1, resume=True)
    assert len(log(s).read_text().splitlines()) == 3  # and the torn line is gone


def test_a_damaged_line_costs_its_own_run_only(s):
    swept(s)
    lines = log(s).read_text().splitlines()
    log(s).write_text("\n".join([lines[0][:20], *lines[1:]]) + "\n")
    with pytest.warns(UserWarning, match="Line 1 of .* is damaged: its run counts as not run"):
        assert [run.trial for run in Sweep.read(s).runs] == [1, 2]
    with pytest.warns(UserWarning, match="damaged"):
        again = swept(s, resume=True)
    assert sorted(run.trial for run in again.runs) == [0, 1, 2]
    assert log(s).read_text().splitlines()[1:3] == lines[1:]


def test_one_process_at_a_time(s):
    swept(s)
    code = f"from tuning.folder import Folder, Path\nwith Folder(Path({str(s)!r})).locked(): print('in'); input()"
    other = subprocess.Popen(
        [sys.executable, "-u", "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    try:
        assert other.stdout.readline() == "in\n"
        for how in ({"resume": True}, {"fresh": True}):
            with pytest.raises(rs.ConfigError, match=rf"Another process .* \(pid {other.pid}\)"):
                swept(s, **how)
    finally:
        other.communicate("\n")
    assert len(swept(s, resume=True).runs) == 3


# ---- taken up again ------------------------------------------------------------------------------------------------


def test_plug_in_objects_as_values_survive_the_file(s):
    over = {"rule": [rs.rules.Averaging(), rs.rules.FedProx(mu=0.5), rs.rules.Scaffold()]}
    plan = Plan(tiny(rounds=1), read_block({"over": over}))
    assert Plan.from_yaml(plan.to_yaml()).points == plan.points
    found = swept(s, over)
    best = (s / "best.yaml").read_text()
    again = Sweep.read(s).run(resume=True)
    assert len(again.runs) == len(log(s).read_text().splitlines()) == 3
    assert again.best() == found.best()
    assert (s / "best.yaml").read_text() == best


def test_only_where_there_is_no_best_its_file_goes(s, monkeypatch):
    found = swept(s)

    def broken(self):
        raise rs.ConfigError("something else")

    monkeypatch.setattr(Sweep, "best_yaml", broken)
    with pytest.raises(rs.ConfigError, match="something else"):
        Sweep(found.plan, s).run(resume=True)
    assert (s / "best.yaml").exists()


def test_a_refused_metric_is_noticed_first_and_blocks_nothing(s, monkeypatch):
    stacks = []
    monkeypatch.setattr(many, "run_all", lambda simulations, tell: stacks.append(simulations))
    with pytest.raises(
        rs.ConfigError, match=r"sweep.metric is 'acuracy', which no run measures. Known: loss"
    ):
        swept(s, metric="acuracy")
    assert stacks == []
    monkeypatch.undo()
    assert len(swept(s, metric="accuracy").runs) == 3


def test_a_full_disk_is_named_with_the_way_on(s, monkeypatch):
    run_all, full = many.run_all, []

    def fill(simulations, tell=None, watch=None):
        if len(full) == 1:
            monkeypatch.setattr("os.fsync", refuse)
        full.append(1)
        return run_all(simulations, tell)

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(many, "run_all", fill)
    monkeypatch.setattr(Sweep, "figure", refuse)
    with pytest.raises(rs.ConfigError) as error:
        swept(s, chunk=1)
    assert f"{log(s)} cannot be written: [Errno 28] No space left" in str(
        error.value
    )  # not the figure's error
    assert f"Make room; then: raysim sweep --resume '{s}'" in str(error.value)
    monkeypatch.undo()
    assert len(swept(s, chunk=1, resume=True).runs) == 3
    monkeypatch.setattr(Sweep, "figure", refuse)
    with pytest.raises(rs.ConfigError, match="Tables and figure cannot be written"):
        swept(s, chunk=1, resume=True)


# ---- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../../evil", "..", "a/b", "/tmp/evil"])
def test_a_name_is_no_way_out_of_the_folder(name):
    plan = Plan(tiny(name=name), read_block({"over": OVER}))
    with pytest.raises(rs.ConfigError, match="is no folder's"):
        Sweep(plan)
    assert Sweep(plan, "s").folder == Path("s")


def test_commands_to_paste_are_quoted(s):
    assert Folder(s).again == f"raysim sweep --resume '{s}'"
    swept(s)
    with pytest.raises(rs.ConfigError, match=f"Go on with it: raysim sweep --resume '{s}'; start"):
        swept(s)
    assert json.loads(log(s).read_text().splitlines()[0])["trial"] == 0
