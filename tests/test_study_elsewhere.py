"""Studies whose runs lie behind a URL, or are made by others: read when they have ended, never taken away."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

import raysim as rs
from raysim.study import Study
from tests.test_study import TEXT


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_study_behind_a_url_is_that_on_a_disk(here):
    url = f"file://{here}/there"
    first = Study.from_yaml(TEXT).run("out")
    second, told = Study.from_yaml(TEXT).run(url), []
    again = Study.from_yaml(TEXT).run(url, tell=told.append)
    read = Study.from_yaml(TEXT).read(url)
    columns = ["loss", "loss_sd", "bits_up"]
    for other in (second, again, read):
        pd.testing.assert_frame_equal(other.table()[columns], first.table()[columns])
    assert len(told) == 4
    with pytest.raises(rs.ConfigError, match="removes folders on a disk only"):
        Study.from_yaml(TEXT).run(url, fresh=True)


def test_a_run_that_a_cluster_may_have_is_not_taken_from_it(here):
    url = f"file://{here}/there"
    Study.from_yaml(TEXT).run(url)
    state = here / "there" / "slow-1" / "run.json"
    state.write_text(state.read_text().replace('"finished"', '"running"'))
    with pytest.raises(rs.ConfigError, match=r"slow-1 is running, or was cut off.*--ended"):
        Study.from_yaml(TEXT).run(url)


def test_reading_runs_nothing_and_leaves_out_what_has_not_ended(here):
    two, told = Study.from_yaml(TEXT), []
    with pytest.raises(
        rs.ConfigError, match=r"4 of the study's 4 runs in out have not ended, so that there is nothing"
    ):
        two.read("out")
    assert not Path("out").exists()
    two.run("out")
    (here / "out" / "slow-1" / "run.json").write_text('{"status": "running", "round": 1, "rounds": 3}')
    shutil.rmtree(here / "out" / "slow-0")
    found = two.read("out", tell=told.append)
    assert list(found.runs) == ["plain"]
    assert [line.partition(": ")[2] for line in told[2:]] == ["left out: not begun", "left out: running"]
    found.figure()


def test_conditions_are_compared_when_all_have_ended(here):
    grid = TEXT + "  conditions: {calm: {}, wild: {local.optimizer.lr: 0.2}}\n"
    four = Study.from_yaml(grid, ["study.seeds=1"]).run("out")
    shutil.rmtree(here / "out" / four.experiments()[0][1])
    with pytest.raises(
        rs.ConfigError, match=r"1 of the study's 4 runs in out have not .* under all conditions yet"
    ):
        four.read("out")
