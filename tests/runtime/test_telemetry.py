"""Metrics say what the run did, whatever it went through, and lines of a log are JSON with the same facts."""

import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from raysim.runtime import telemetry
from raysim.runtime.coordinator import Coordinator
from raysim.runtime.outcome import Tally
from tests.experiments import digits


class Recorder:
    """Stands for a Ray metric."""

    def __init__(self, name, text, keys):
        self.name, self.keys, self.told = name, keys, []
        assert text.endswith(".")

    def set(self, value, tags):
        self.told.append((value, tags))

    def inc(self, value, tags):
        assert value > 0  # Ray refuses anything else
        self.told.append((value, tags))


@pytest.fixture
def watched(monkeypatch):
    """Telemetry on a clock of its own, with metrics that only record."""
    monkeypatch.setattr("ray.util.metrics.Gauge", Recorder)
    monkeypatch.setattr("ray.util.metrics.Counter", Recorder)
    clock = [0.0]
    seen = telemetry.Telemetry("runs-1", lambda: clock[0])
    seen.turn = lambda seconds: clock.__setitem__(0, clock[0] + seconds)
    return seen


def total(seen, name):
    return sum(value for value, _ in seen.counters[name].told)


def last(seen, name):
    return seen.gauges[name].told[-1][0]


def tally(rounds, each=10, seconds=0.5):
    return Tally(320 * each * rounds, 64 * each * rounds, each * rounds, seconds * rounds)


def test_counters_and_rates_are_those_of_the_rounds(watched):
    watched.see({"kind": "prepared", "rounds": 8}, Tally())
    for round in range(1, 9):
        watched.turn(0.4)  # two or three rounds between updates
        watched.see({"kind": "metrics", "round": round, "loss": 2.0 / round, "accuracy": 0.5}, tally(round))
        watched.see({"kind": "round", "round": round}, tally(round))
    watched.see({"kind": "ended", "status": "finished", "round": 8}, tally(8))
    assert [total(watched, f"raysim_{n}") for n in ("client_updates", "bits_up", "bits_down")] == [
        80,
        25600,
        5120,
    ]
    assert (last(watched, "raysim_round"), last(watched, "raysim_rounds")) == (8, 8)
    assert (last(watched, "raysim_loss"), last(watched, "raysim_accuracy")) == (0.25, 0.5)
    assert last(watched, "raysim_client_updates_per_second") == pytest.approx(10 / 0.5)
    assert last(watched, "raysim_seconds_per_round") == pytest.approx(0.5)


def test_no_more_than_one_update_per_second_and_one_at_the_end(watched):
    watched.see({"kind": "prepared", "rounds": 640}, Tally())
    for round in range(1, 641):
        watched.turn(1 / 64)
        watched.see({"kind": "round", "round": round}, tally(round))
    assert len(watched.gauges["raysim_round"].told) == 11  # at 0, 1, ..., 10 s
    watched.see({"kind": "ended", "status": "stopped", "round": 640}, tally(640))
    assert len(watched.gauges["raysim_round"].told) == 12
    assert total(watched, "raysim_client_updates") == 6400


def test_a_resumed_run_counts_only_what_it_does_itself(watched):
    watched.see({"kind": "prepared", "rounds": 20}, Tally())
    watched.see({"kind": "resumed", "round": 10}, tally(10))
    watched.turn(1)
    watched.see({"kind": "round", "round": 11}, tally(11))
    assert total(watched, "raysim_client_updates") == 10
    assert last(watched, "raysim_seconds_per_round") == pytest.approx(0.5)


def test_rounds_done_again_count_again_and_nothing_is_taken_back(watched):
    """Rounds 1 to 5, then back to the checkpoint of round 2 and on to round 6, then from the start to round 1."""
    for round in range(1, 6):
        watched.turn(1)
        watched.see({"kind": "round", "round": round}, tally(round))
    watched.see({"kind": "resumed", "round": 2}, tally(2))
    for round in range(3, 7):
        watched.turn(1)
        watched.see({"kind": "round", "round": round}, tally(round))
    watched.turn(1)
    watched.see({"kind": "metrics", "round": 0, "loss": 1.0}, Tally())
    watched.turn(1)
    watched.see({"kind": "round", "round": 1}, tally(1))
    assert total(watched, "raysim_client_updates") == 10 * (5 + 4 + 1)
    assert all(v > 0 for v, _ in watched.gauges["raysim_seconds_per_round"].told)


@pytest.mark.parametrize("back", ["start", "checkpoint"])
def test_rounds_between_two_updates_count_when_the_run_goes_back_at_once(watched, back):
    """Ten rounds a second: hosts die and come back between two updates, and what was done by then is not lost."""
    for round in range(1, 16):  # the last update is that of round 11
        watched.see({"kind": "round", "round": round}, tally(round))
        watched.turn(0.1)
    if back == "start":
        watched.see({"kind": "metrics", "round": 0, "loss": 1.0}, Tally())
    else:
        watched.see({"kind": "resumed", "round": 10}, tally(10))
    first = 1 if back == "start" else 11
    for round in range(first, first + 3):
        watched.see({"kind": "round", "round": round}, tally(round))
    watched.see({"kind": "ended", "status": "stopped", "round": first + 2}, tally(first + 2))
    assert total(watched, "raysim_client_updates") == 10 * (15 + 3)
    assert total(watched, "raysim_bits_up") == 3200 * (15 + 3)
    assert last(watched, "raysim_seconds_per_round") == pytest.approx(0.5)


def test_what_is_not_finite_is_not_told(watched):
    watched.see({"kind": "metrics", "round": 1, "loss": 3.0}, tally(1))
    watched.turn(1)
    watched.see({"kind": "metrics", "round": 2, "loss": math.nan}, tally(2))
    assert [value for value, _ in watched.gauges["raysim_loss"].told] == [3.0]
    assert last(watched, "raysim_round") == 2


def test_the_run_is_the_only_tag(watched):
    watched.see({"kind": "round", "round": 1}, tally(1))
    every = [*watched.gauges.values(), *watched.counters.values()]
    assert {metric.keys for metric in every} == {("run",)}
    assert [tags for metric in every for _, tags in metric.told if tags != {"run": "runs-1"}] == []


class Actor:
    """Stands for the handle of a client actor: its calls are numbered."""

    def __init__(self):
        self.calls = 0

    @property
    def resident(self):
        return self

    def remote(self):
        self.calls += 1
        return self


def test_no_round_waits_for_the_memory_of_client_actors(watched, monkeypatch):
    """They are asked again once all have answered, and forgotten when one has died."""
    from ray.exceptions import RayActorError

    fleet = SimpleNamespace(actors=[Actor(), Actor()])
    ready = []

    def answers(done):
        if done is None:
            raise RayActorError
        return [1e9] * len(done)

    monkeypatch.setattr(
        "ray.wait", lambda refs, num_returns, timeout: (ready, [r for r in refs if r not in ready])
    )
    monkeypatch.setattr("ray.get", answers)
    for round in range(3):
        watched.turn(1)
        watched.see({"kind": "round", "round": round}, tally(round), fleet)
    assert [actor.calls for actor in fleet.actors] == [1, 1]
    assert watched.gauges["raysim_clients_bytes"].told == []
    ready = fleet.actors
    watched.turn(1)
    watched.see({"kind": "round", "round": 3}, tally(3), fleet)
    assert last(watched, "raysim_clients_bytes") == 2e9
    assert [actor.calls for actor in fleet.actors] == [2, 2]
    monkeypatch.setattr("ray.get", lambda _: answers(None))
    watched.turn(1)
    watched.see({"kind": "round", "round": 4}, tally(4), fleet)
    assert last(watched, "raysim_round") == 4
    assert watched.asked == []


def test_a_coordinator_exports_nothing_unless_asked(watched, monkeypatch):
    """And asked, it exports what its result says."""
    silent = Coordinator(digits(), None)
    assert silent.telemetry is None
    coordinator = Coordinator(digits(rounds=3, name="tiny"), None, telemetry=True)
    outcome = coordinator.run()
    assert coordinator.telemetry.tags == {"run": "tiny"}
    assert total(coordinator.telemetry, "raysim_client_updates") == 3 * 8
    assert total(coordinator.telemetry, "raysim_bits_up") == outcome.rows[-1]["bits_up"]
    assert last(coordinator.telemetry, "raysim_round") == 3
    assert last(coordinator.telemetry, "raysim_rounds") == 3


@pytest.mark.parametrize(
    ("folder", "named", "name"),
    [
        (Path("runs/a-1"), "a", "a-1"),
        ("s3://bucket/runs/b-2/", "b", "b-2"),
        (None, "c", "c"),
        (None, "", "run"),
    ],
)
def test_a_run_is_named_after_its_folder(folder, named, name):
    assert telemetry.name_of(folder, named) == name


def without_packages(code):
    """What ``code`` prints in a process of its own, where importing raysim's modules takes no other package."""
    start = """
import importlib.util as u, sys, types
m = types.ModuleType("raysim"); m.__path__ = list(u.find_spec("raysim").submodule_search_locations)
sys.modules["raysim"] = m
"""
    done = subprocess.run(
        [sys.executable, "-c", start + code], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


def test_resident_memory_is_that_of_pages_touched():
    """Told in a process with nothing else to do: memory freed elsewhere, or reused, would hide what is taken."""
    code = """
import mmap
from raysim.runtime.telemetry import resident
seen = [resident()]
held = mmap.mmap(-1, 128 << 20)
seen.append(resident())
for page in range(0, len(held), mmap.PAGESIZE):
    held[page] = 1
seen.append(resident())
held.close()
seen.append(resident())
print(*(now - before for before, now in zip(seen, seen[1:])))
"""
    mapped, touched, unmapped = (int(word) / (128 << 20) for word in without_packages(code).split())
    assert mapped == pytest.approx(0, abs=0.1)  # address space is not memory
    assert touched == pytest.approx(1, abs=0.1)
    assert unmapped == pytest.approx(-1, abs=0.1)


# ---- lines -----------------------------------------------------------------------------------------------------------


def strict(text):
    """JSON as other programs read it: no NaN."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_every_event_of_a_run_is_a_line_that_reads_back(tmp_path):
    coordinator = Coordinator(digits(rounds=2, checkpoint_every=1), tmp_path)
    coordinator.run()
    kinds = set()
    for event in coordinator.events:
        text = telemetry.line("digits-1", event)
        assert text.splitlines() == [text]
        found = telemetry.read(text)
        assert found == strict(text)
        assert (found["run"], found["event"], found["level"]) == ("digits-1", event["kind"], "info")
        assert found["round"] == event.get("round")
        assert {k: v for k, v in found.items() if k in event} == {
            k: v for k, v in event.items() if k != "kind"
        }
        kinds.add(found["event"])
    assert kinds >= {"prepared", "metrics", "round", "checkpoint", "ended"}


def test_numbers_that_are_not_finite_and_numbers_of_numpy_and_torch():
    values = {"a": math.nan, "b": [1.5, -math.inf], "c": {"d": np.float32("inf"), 2: np.int64(7)}}
    tensors = {"e": torch.tensor([1.0, math.nan]), "f": np.arange(2), "g": np.bool_(True), "h": Path("x")}
    found = strict(telemetry.line("r", {"kind": "metrics", "round": 1, **values, **tensors}))
    plain = {"a": None, "b": [1.5, None], "c": {"d": None, "2": 7}}
    assert {k: found[k] for k in values} == plain
    assert {k: found[k] for k in tensors} == {"e": [1.0, None], "f": [0, 1], "g": True, "h": "x"}


def test_a_line_stays_one_line_and_warnings_are_marked():
    text = telemetry.line("r", {"kind": "warning", "text": "one\ntwo\u2028three ü"}, round=7)
    assert len(text.splitlines()) == 1
    found = telemetry.read(text)
    assert (found["level"], found["round"], found["text"]) == ("warning", 7, "one\ntwo\u2028three ü")
    ended = telemetry.read(telemetry.line("r", {"kind": "ended", "status": "diverged", "round": 3}))
    assert (ended["level"], ended["round"]) == ("warning", 3)


@pytest.mark.parametrize("text", ["{", "[1]", '{"event": "round"}'])
def test_what_is_no_line_of_a_log_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011 (json's own errors are ValueErrors too)
        telemetry.read(text)


def test_lines_need_neither_torch_nor_ray():
    """A job that waits for its turn stays small."""
    code = """
from raysim.runtime.telemetry import line
line("r", {"kind": "waiting"})
print(sorted({"torch", "ray", "numpy"} & set(sys.modules)))
"""
    assert without_packages(code) == "[]"
