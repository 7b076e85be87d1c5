"""Shared memory between coordinator and actors: what goes in comes out, and nothing is ever needed of it."""

import numpy as np
import pytest
import torch

import raysim as rs
from raysim.runtime import mailbox
from tests.experiments import digits

pytestmark = pytest.mark.skipif(not mailbox.SHARED.is_dir(), reason="no shared memory file system here")


@pytest.fixture
def pair():
    box, address = mailbox.create(2, side=1 << 12)
    there = mailbox.join(address)
    mailbox.forget(address)
    return box, there


def test_both_sides_carry_arrays_of_any_kind(pair):
    rng = np.random.default_rng(0)
    box, there = pair
    for side, (writer, reader) in enumerate(((box, there), (there, box))):
        arrays = [rng.normal(size=(3, 5)).astype(np.float32), np.arange(7), np.empty((0, 4)), np.float32(2.5)]
        slips = [writer.put(side, np.asarray(a)) for a in arrays]
        for array, slip in zip(arrays, slips, strict=True):
            np.testing.assert_array_equal(reader.get(slip), array)
            assert reader.get(slip).ctypes.data % mailbox.ALIGN == 0


def test_the_sides_do_not_touch_and_begin_overwrites(pair):
    box, there = pair
    down, up = box.put(0, np.arange(4)), there.put(1, np.arange(4) + 10)
    np.testing.assert_array_equal(there.get(down), np.arange(4))
    np.testing.assert_array_equal(box.get(up), np.arange(4) + 10)
    box.begin()
    assert box.put(0, np.ones(4)).offset == down.offset


def test_what_finds_no_room_is_refused_whole(pair):
    box, there = pair
    assert box.put(0, np.zeros(1 << 12, np.uint8)) is not None
    assert box.put(0, np.zeros(1, np.uint8)) is None
    assert there.put(1, np.zeros((1 << 12) + 1, np.uint8)) is None


def test_another_machine_finds_no_mailbox(tmp_path):
    _, address = mailbox.create(1, side=64)
    assert mailbox.join(mailbox.Address(address.path, b"0" * mailbox.TOKEN)) is None
    mailbox.forget(address)
    assert mailbox.join(address) is None
    mailbox.forget(address)
    (tmp_path / "empty").touch()
    assert mailbox.join(mailbox.Address(str(tmp_path / "empty"), address.token)) is None


def test_none_is_made_for_very_many_actors_or_without_memory(monkeypatch, tmp_path):
    assert mailbox.create(mailbox.MOST + 1) is None
    monkeypatch.setattr(mailbox, "SHARED", tmp_path / "missing")
    assert mailbox.create(1) is None
    monkeypatch.setattr(mailbox, "SHARED", tmp_path)

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(mailbox.os, "posix_fallocate", full)
    assert mailbox.create(1) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ray
@pytest.mark.parametrize("side", [None, 64, 1 << 13])
def test_the_bits_are_the_same_without_a_mailbox_or_with_one_too_small(ray_session, monkeypatch, side):
    from raysim.runtime.coordinator import Coordinator

    sim = digits(placement=rs.Placement(actors=2, cpus_per_actor=0.5))
    make = mailbox.create
    monkeypatch.setattr(mailbox, "create", lambda n: None if side is None else make(n, side))
    expected = sim.replaced(placement=rs.Placement()).run(None)
    assert torch.equal(expected.x_P, Coordinator(sim, None).run().server.x_P)
