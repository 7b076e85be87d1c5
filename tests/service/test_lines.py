"""A job's log, read back."""

import json

import pytest

from raysim.service import lines
from tests.service.fakes import line

LOG = (
    "2026-11-21 16:03:43,013\tINFO job_manager.py:581 -- Runtime env is setting up.\n"
    "Running entrypoint for job x: python -c '...'\n"
    + line("waiting", text="asking", rounds=9)
    + line("round", round=3, rounds=9, loss=0.5, accuracy=0.75)
    + "Fatal Python error: Aborted\n"
    + '{"not": "ours"}\n'
    + line("failed", round=3, rounds=9, text="client 3 failed", traceback="Traceback\n  boom")
)


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_log_cut_anywhere_gives_the_same_lines(size):
    reader = lines.Reader()
    told = [t for i in range(0, len(LOG), size) for t in reader.read(LOG[i : i + size])] + reader.close()
    text = "\n".join(told)
    assert "Runtime env" not in text
    assert "Running entrypoint" not in text
    assert [t[10:] for t in told[:2]] == ["waiting: asking", "round 3/9  loss 0.5000  accuracy 75.0 %"]
    assert told[2:4] == ["Fatal Python error: Aborted", '{"not": "ours"}']
    assert told[4].endswith("failed: client 3 failed\nTraceback\n  boom")


def test_raw_lines_are_the_jobs_own():
    reader = lines.Reader(raw=True)
    told = reader.read(LOG)
    assert [json.loads(t)["event"] for t in told] == ["waiting", "round", "failed"]


def test_a_line_without_an_end_is_told_at_the_close():
    reader = lines.Reader()
    assert reader.read("Killed") == []
    assert reader.close() == ["Killed"]
    assert reader.close() == []


def test_the_last_line_says_all():
    assert lines.last(LOG)["text"] == "client 3 failed"
    assert lines.last(LOG.rsplit("{", 1)[0])["loss"] == 0.5
    assert lines.last("Running entrypoint\n") == {}
    assert lines.last('{"event": "round", "run"') == {}


def test_no_number_no_time():
    assert lines.readable({"event": "round", "round": 1, "loss": None}) == "--:--:--  round 1/?"
    ended = lines.readable(json.loads(line("ended", status="diverged")))
    assert ended.endswith("ended: diverged")
