"""Batches: every epoch visits every example once, in a fresh order, whatever stack a client is in."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from raysim.core import streams
from raysim.core.batches import Batches, Examples, whole
from raysim.core.cohorts import Plan, Shards, cohort_ids, plan, runs
from raysim.core.local import Local
from raysim.optimizers import SGD


def stack(sizes, local, width=None, seed=0):
    """Batches of clients with those sizes; example e of the training set is the number e."""
    shards = Shards(np.concatenate([[0], np.cumsum(sizes)]))
    n = int(shards.start_N[-1])
    examples = Examples(torch.arange(n, dtype=torch.float32)[:, None], torch.arange(n), shards)
    ids = plan(local, shards, np.arange(len(sizes)), 0, 100).ids_C
    key_C = streams.key(seed, 0, "client", torch.from_numpy(ids))
    return Batches(local, examples, ids, key_C, width), ids, shards


def visits(batches, ids, shards):
    """For each client the list of its batches, as positions in its own data."""
    seen = {int(i): [] for i in ids}
    for step in range(batches.steps):
        batch = batches.at(step)
        for c in range(len(batch.y_CB)):
            keep = slice(None) if batch.weight_CB is None else batch.weight_CB[c] > 0
            if batch.weight_CB is not None:
                torch.testing.assert_close(batch.weight_CB[c].sum(), torch.tensor(1.0))
            seen[int(ids[c])].append((batch.y_CB[c][keep] - int(shards.start_N[ids[c]])).tolist())
    return seen


sizes_of = st.lists(st.integers(1, 9), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(
    sizes=sizes_of,
    batch=st.integers(1, 10),
    epochs=st.integers(1, 3),
    shuffle=st.booleans(),
    wide=st.booleans(),
)
def test_epochs_visit_everything_once(sizes, batch, epochs, shuffle, wide):
    local = Local(SGD(lr=0.1), epochs=epochs, batch_size=batch, shuffle=shuffle)
    seen = visits(*stack(sizes, local, width=10 if wide else None))
    for client, size in enumerate(sizes):
        per_epoch = -(-size // batch)
        assert len(seen[client]) == epochs * per_epoch
        for e in range(epochs):
            batches = seen[client][e * per_epoch : (e + 1) * per_epoch]
            flat = [i for b in batches for i in b]
            assert sorted(flat) == list(range(size))
            assert all(len(b) == batch for b in batches[:-1])
            if not shuffle:
                assert flat == list(range(size))


@settings(max_examples=40, deadline=None)
@given(sizes=sizes_of, batch=st.integers(1, 10), steps=st.integers(1, 7))
def test_a_client_sees_the_same_in_any_stack(sizes, batch, steps):
    local = Local(SGD(lr=0.1), steps=steps, batch_size=batch)
    together, ids, shards = stack(sizes, local)
    seen = visits(together, ids, shards)
    for c, i in enumerate(ids):
        part = together.part(c, c + 1)
        assert visits(part, ids[c : c + 1], shards)[int(i)] == seen[int(i)]
        key_C = streams.key(0, 0, "client", torch.from_numpy(ids[c : c + 1]))
        alone = Batches(local, together.examples, ids[c : c + 1], key_C)
        assert visits(alone, ids[c : c + 1], shards)[int(i)] == seen[int(i)]


def test_orders_differ_between_epochs_and_clients():
    local = Local(SGD(lr=0.1), epochs=2, batch_size=50)
    seen = visits(*stack([50, 50], local))
    orders = [tuple(b) for batches in seen.values() for b in batches]
    assert len(set(orders)) == 4


def test_full_batch_is_everything_in_stored_order():
    seen = visits(*stack([3, 5], Local(SGD(lr=0.1), steps=2)))
    assert seen == {0: [[0, 1, 2]] * 2, 1: [[0, 1, 2, 3, 4]] * 2}


def test_whole_pads_with_weight_zero():
    batches, ids, _ = stack([2, 4], Local(SGD(lr=0.1), steps=1))
    batch = whole(batches.examples, ids)
    assert batch.weight_CB.tolist() == [[0.25] * 4, [0.5, 0.5, 0, 0]]


def test_cohorts_are_uniform_and_without_replacement():
    counts = np.zeros(20)
    for r in range(300):
        ids = cohort_ids(3, r, 20, 5)
        assert len(np.unique(ids)) == 5
        counts[ids] += 1
    assert ((counts - 75) ** 2 / (300 * 0.25 * 0.75)).sum() < 45


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=40),
    block=st.integers(1, 12),
    actors=st.integers(1, 6),
)
def test_runs_cover_all_blocks_in_order(sizes, block, actors):
    local = Local(SGD(lr=0.1), epochs=1, batch_size=4)
    shards = Shards(np.concatenate([[0], np.cumsum(sizes)]))
    p = plan(local, shards, np.arange(len(sizes)), 0, block)
    steps = local.steps_of(shards.sizes_N[p.ids_C])
    assert (np.diff(steps) <= 0).all()
    assert sorted(p.ids_C) == list(range(len(sizes)))
    assert max(np.diff(p.bounds)) <= block
    cut = runs(p, local, shards, actors)
    assert cut[0][0] == 0
    assert cut[-1][1] == p.blocks
    assert all(a[1] == b[0] for a, b in itertools.pairwise(cut))
    parts = [p.part(a, b) for a, b in cut]
    assert np.array_equal(np.concatenate([q.ids_C for q in parts]), p.ids_C)


def test_a_plan_is_a_plain_record():
    p = Plan(0, np.arange(4), np.ones(4), np.array([0, 2, 4]), 0, 2)
    assert p.part(1, 2).first == 1


def test_local_needs_steps_or_epochs():
    from raysim import ConfigError

    with pytest.raises(ConfigError, match="either steps or epochs, got neither"):
        Local(SGD(lr=0.1))
    with pytest.raises(ConfigError, match="got steps=1 and epochs=1"):
        Local(SGD(lr=0.1), steps=1, epochs=1)
