"""Error feedback: nothing is lost, whoever takes part; what it makes possible; momentum on top of it."""

import itertools

import numpy as np
import pytest
import torch

import raysim as rs
from raysim.runtime.coordinator import Coordinator
from tests.compressors.examples import ALL
from tests.compressors.senders import P, rows, sender
from tests.experiments import digits, same

c = rs.compressors
TOPK = c.TopK(fraction=0.1)


def remembered(kept, name, C):
    return torch.stack([kept[client, name] for client in range(C)])


@pytest.mark.parametrize("compressor", ALL, ids=repr)
def test_nothing_is_lost(compressor):
    """Memory + sent = row + old memory, in every round, whatever is inside."""
    kept, before_CP = {}, torch.zeros(5, P)
    for round in range(6):
        x_CP = rows(5, seed=round)
        sent_CP, _ = c.Feedback(compressor).apply(x_CP.clone(), sender(5, kept=kept, round=round))
        memory_CP = remembered(kept, "memory", 5)
        size = max(1.0, float(memory_CP.abs().max()), float(sent_CP.abs().max()))
        torch.testing.assert_close(memory_CP + sent_CP, before_CP + x_CP, rtol=0, atol=1e-6 * size)
        before_CP = memory_CP.clone()


def test_what_a_sparsifier_sends_leaves_the_memory_to_the_bit():
    """A number is either sent or kept: no rounding in between."""
    kept = {}
    for round in range(4):
        old_CP = remembered(kept, "memory", 5).clone() if kept else torch.zeros(5, P)
        x_CP = rows(5, seed=round)
        sent_CP, _ = c.Feedback(TOPK).apply(x_CP.clone(), sender(5, kept=kept, round=round))
        memory_CP = remembered(kept, "memory", 5)
        assert ((memory_CP == 0) | (sent_CP == 0)).all()
        assert torch.equal(memory_CP + sent_CP, old_CP + x_CP)


def test_memories_of_wrappers_in_wrappers_are_their_own():
    kept = {}
    nested = c.Feedback(c.MomentumCorrection(c.Feedback(TOPK)))
    nested.apply(rows(2), sender(2, kept=kept))
    assert {name for _, name in kept} == {
        "memory",
        "inner.memory",
        "inner.velocity",
        "inner.inner.memory",
    }


def test_without_momentum_the_correction_is_feedback():
    for masking in (True, False):
        kept, other = {}, {}
        correction = c.MomentumCorrection(TOPK, momentum=0.0, masking=masking)
        for round in range(5):
            a_CP, _ = correction.apply(rows(3, seed=round), sender(3, kept=kept, round=round))
            b_CP, _ = c.Feedback(TOPK).apply(rows(3, seed=round), sender(3, kept=other, round=round))
            assert torch.equal(a_CP, b_CP)


def test_momentum_without_masking_sends_each_row_ten_times_in_the_long_run():
    """Σ sent + memory + m/(1-m) velocity = Σ x / (1 - m), for any C: here of a single row followed by zeros."""
    kept, total_CP = {}, torch.zeros(2, P)
    correction = c.MomentumCorrection(TOPK, momentum=0.9, masking=False)
    for round in range(250):
        x_CP = rows(2) if round == 0 else torch.zeros(2, P)
        total_CP += correction.apply(x_CP, sender(2, kept=kept, round=round))[0]
    torch.testing.assert_close(total_CP, 10 * rows(2), rtol=1e-3, atol=1e-3)


def test_masking_stops_momentum_where_something_was_sent():
    """With everything sent in every round nothing is ever carried over."""
    kept, correction = {}, c.MomentumCorrection(c.TopK(fraction=1.0), momentum=0.9)
    for round in range(3):
        x_CP = rows(2, seed=round)
        assert torch.equal(correction.apply(x_CP.clone(), sender(2, kept=kept, round=round))[0], x_CP)
    assert (remembered(kept, "velocity", 2) == 0).all()


# ---- what it is for --------------------------------------------------------------------------------------------


def descent(compressor, steps, lr):
    """Two clients whose largest gradients cancel: f_i(x) = ±10 x_1 + x_2²/2 + x_3²/4, from (1, 1, 1)."""
    x, kept, shapes = torch.ones(3), {}, [torch.Size((3,))]
    for step in range(steps):
        grad_CP = torch.stack([torch.stack([s * torch.tensor(10.0), x[1], x[2] / 2]) for s in (1, -1)])
        sent_CP, _ = compressor.apply(lr * grad_CP, sender(2, shapes, kept, step))
        x = x - sent_CP.mean(0)
    return x


def test_top_1_alone_never_moves_and_with_feedback_reaches_the_optimum():
    one = c.TopK(fraction=1 / 3)
    assert descent(one, 100, 0.05).tolist() == [1, 1, 1]
    for lr in (0.05, 0.02):
        x = descent(c.Feedback(one), 1000, lr)
        assert x[1:].abs().max() < 10 * lr  # it swings by what waits in the memory


def test_memory_of_a_contraction_stays_bounded():
    """||m||² <= 4 (1 - δ) / δ² max ||x||², the standard bound, for δ = k/P."""
    kept, delta = {}, 10 / P
    for round in range(200):
        x_CP = rows(3, seed=round % 7)
        c.Feedback(TOPK).apply(x_CP, sender(3, kept=kept, round=round))
    largest = max(float(rows(3, seed=s).square().sum(1).max()) for s in range(7))
    length = remembered(kept, "memory", 3).square().sum(1).max()
    assert length <= 4 * (1 - delta) / delta**2 * largest


# ---- in experiments --------------------------------------------------------------------------------------------


def rows_of(ids, round, n):
    """Rows that follow from client and round."""
    ids = torch.as_tensor(ids, dtype=torch.float32)[:, None]
    return torch.sin(0.7 * ids + 1.3 * round + 0.01 * (ids + 2) * torch.arange(n))


def told(cohort, x_P):
    return rows_of(cohort.ids_C, cohort.round, len(x_P))


def received(compressor, rounds=6, block=3):
    """What the server receives in each round, by client, with a third of the clients taking part."""
    coordinator = Coordinator(digits(uplink=(compressor,), execution=rs.Execution(block=block)), None)
    server = coordinator._prepare()
    for number in range(rounds):
        clients = coordinator._clients(server)
        rows_CP = clients.rows(told, server.x_P)
        yield clients, dict(zip(clients.ids.tolist(), rows_CP, strict=True))
        server = type(server)(server.x_P, number + 1, clients.settled(server).state)


def test_memory_follows_its_client_when_others_take_part():
    """Received in every round is what each client's own, naive memory says, though a third of them take turns."""
    memory, seen = {}, []
    for number, (_, sent_by) in enumerate(received(c.Feedback(TOPK))):
        seen.append(set(sent_by))
        for client, row in sent_by.items():
            n = len(row)
            v = memory.get(client, torch.zeros(n)) + rows_of([client], number, n)[0]
            chosen = np.argsort(-v.abs().numpy(), kind="stable")[: round(0.1 * n)]
            sent = torch.zeros(n)
            sent[chosen] = v[chosen]
            memory[client] = v - sent
            torch.testing.assert_close(row, sent, rtol=1e-5, atol=1e-5)
    assert any(a & b and a - b for a, b in itertools.pairwise(seen))


@pytest.mark.parametrize(
    "compressor", [c.Feedback(TOPK), c.MomentumCorrection(c.TopK(fraction=0.1, per_layer=True), momentum=0.5)]
)
def test_stop_and_resume_equals_one_run(compressor, tmp_path):
    """Memory included: without it the second half is another."""
    sim = digits(uplink=(compressor,), rounds=6)
    whole = sim.run(None)
    sim.replaced(rounds=3).run(tmp_path / "run")
    assert same(whole, rs.resume(tmp_path / "run", sim))
    assert not torch.equal(whole.x_P, digits(uplink=(compressor.compressor,), rounds=6).run(None).x_P)


@pytest.mark.parametrize(
    "compressor", [c.Feedback(TOPK), c.QSGD(levels=7), c.RandomK(fraction=0.1), c.Ternary(), c.Natural()]
)
def test_an_experiment_does_not_depend_on_blocks(compressor):
    """What arrives is the same to the bit; and it takes the bits that the compressor says."""
    shapes = [torch.Size(s) for s in ((16, 64), (16,), (10, 16), (10,))]
    bits = compressor.apply(rows(1, 1210), sender(1, shapes))[1]
    runs = zip(*[received(compressor, rounds=3, block=b) for b in (1, 3, 8)], strict=True)
    for (clients, expected), *others in runs:
        assert clients.bits_up == 8 * bits
        for other, found in others:
            assert other.bits_up == 8 * bits
            assert expected.keys() == found.keys()
            assert all(torch.equal(row, found[client]) for client, row in expected.items())


def test_refusals():
    with pytest.raises(rs.ConfigError, match=r"Feedback.compressor must be"):
        c.Feedback(rs.optimizers.SGD(lr=0.1))
    with pytest.raises(rs.ConfigError, match=r"MomentumCorrection.momentum must be less than 1, got 1.0"):
        c.MomentumCorrection(TOPK, momentum=1.0)
