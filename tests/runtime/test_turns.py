"""Jobs wait in the order in which they came."""

import threading
from contextlib import ExitStack

import pytest

from raysim.runtime import capacity, turns

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(turns, "LOOK", 0.02)


class Waiting(threading.Thread):
    """A job in the line, on a thread."""

    def __init__(self, run, kind, number):
        super().__init__(daemon=True)
        self.arguments = (run, kind, self.tell, number)
        self.told, self.words, self.came, self.go = (
            [],
            threading.Event(),
            threading.Event(),
            threading.Event(),
        )
        self.start()

    def tell(self, text):
        self.told.append(text)
        self.words.set()

    def run(self):
        with turns.in_turn(*self.arguments):
            self.came.set()
            self.go.wait(60)


def test_later_ones_wait_for_earlier_ones_of_their_kind():
    with ExitStack() as first:
        leave = first.enter_context(turns.in_turn("raysim-large-1", "CPU", pytest.fail, 1))
        second = Waiting("raysim-b", "CPU", 2)
        assert second.words.wait(60)
        third = Waiting("raysim-c", "CPU", 3)
        assert third.words.wait(60)
        assert second.told == ["waiting for its turn after 1 run that came before (the first: large-1)"]
        assert third.told == ["waiting for its turn after 2 runs that came before (the first: large-1)"]
        other = Waiting("raysim-gpus", "GPU", 4)
        assert other.came.wait(60)
        assert other.told == []
        other.go.set()
        assert not second.came.is_set()
        leave()  # what it waits for went away
        assert second.came.wait(60)
        assert not third.came.is_set()
    second.go.set()
    assert third.came.wait(60)
    third.go.set()
    for thread in (second, third, other):
        thread.join(60)
    assert turns._before("CPU", 9) == []


def test_an_interrupted_one_is_in_nobodys_way():
    with turns.in_turn("raysim-a", "CPU", pytest.fail, 1):

        def interrupted(_):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt), turns.in_turn("raysim-b", "CPU", interrupted, 2):
            raise AssertionError
    with turns.in_turn("raysim-c", "CPU", pytest.fail, 3):
        assert len(turns._before("CPU", 4)) == 1


@pytest.mark.parametrize(
    ("name", "number", "waits"), [("raysim-x", 10**9, True), ("raysim-x", 0, False), ("", 9, False)]
)
def test_only_what_jobs_gather_stands_in_line(monkeypatch, name, number, waits):
    """Four CPUs are free: an earlier job of its kind is all that a later one waits for."""
    import ray

    monkeypatch.setenv(capacity.GROUP, name)
    monkeypatch.setattr(turns, "own_number", lambda: number)
    told, refuse = [], lambda growth: growth
    with ExitStack() as before:
        leave = before.enter_context(turns.in_turn("raysim-first", "CPU", pytest.fail, 5))

        def tell(text):
            told.append(text)
            leave()

        group = capacity.gathered([{"CPU": 1.0}], 60.0, tell, refuse)
    ray.util.remove_placement_group(group)
    assert bool(told) == waits


def test_one_that_can_have_no_more_what_it_waits_for_lets_others_pass(monkeypatch):
    import ray

    taken = ray.util.placement_group([{"CPU": 4.0}])
    assert taken.wait(60)
    monkeypatch.setenv(capacity.GROUP, "raysim-x")
    monkeypatch.setattr(capacity, "QUIET", 0.0)
    here, lines = capacity.nodes(), []

    def tell(_):
        if lines:
            return
        lines.append(len(turns._before("CPU", 10**9)))
        monkeypatch.setattr(capacity, "nodes", lambda on=None: [])
        monkeypatch.setattr(capacity, "EACH", 0.0)

    def free():
        if lines and not turns._before("CPU", 10**9):
            ray.util.remove_placement_group(taken)
        return "..."

    monkeypatch.setattr(capacity, "_free", free)
    assert sum(node["CPU"] for node in here) == 4
    ray.util.remove_placement_group(capacity.gathered([{"CPU": 4.0}], 60.0, tell, lambda growth: growth))
    assert lines == [1]
