"""Attacks on what is sent: who lies, that nobody else does, and that nothing but rows changes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import raysim as rs
from raysim.rules.averaging import local_update
from tests.attacks.heard import ATTACKS, SENT, SIZE, heard, hostile_of, pattern, some


def both(name, **changes):
    """Truth and what was heard, round by round, and who is hostile."""
    sim = some(ATTACKS[name], **changes)
    return heard(sim.replaced(uplink=()), local_update), heard(sim, local_update), hostile_of(sim)


# ---- each attack -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "factor"), [("SignFlip", -2.0), ("Scale", 3.0)])
def test_rows_are_multiplied(name, factor):
    truth, told, hostile = both(name)
    for a, b in zip(truth, told, strict=True):
        for i, client in enumerate(a.ids):
            times = np.float32(factor if client in hostile else 1.0)
            np.testing.assert_array_equal(b.rows[i], a.rows[i] * times)


def test_noise_is_normal_and_everyones_own():
    """Moments of a normal distribution; nothing shared between clients or rounds, nothing of the truth left."""
    truth, told, hostile = both("Noise", cohort=None)
    rows = [b.rows[i] / 0.5 for b in told for i, client in enumerate(b.ids) if client in hostile]
    true = [a.rows[i] for a in truth for i, client in enumerate(a.ids) if client in hostile]
    z = np.concatenate(rows).astype(np.float64)
    for power, moment, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((z**power).mean() - moment) < 4 * (spread / len(z)) ** 0.5
    between = np.corrcoef(rows + true) - np.eye(2 * len(rows))
    assert np.abs(between[: len(rows)]).max() < 5 / len(rows[0]) ** 0.5


def test_noise_may_be_added():
    truth, alone, hostile = both("Noise")
    added = both("added noise")[1]
    for a, b, c in zip(truth, alone, added, strict=True):
        for i, client in enumerate(a.ids):
            expected = a.rows[i] + b.rows[i] if client in hostile else a.rows[i]
            np.testing.assert_allclose(c.rows[i], expected, rtol=1e-6, atol=1e-6)


def test_noise_of_no_size_is_silence():
    sim = some(rs.attacks.Noise(hostile=1.0, std=0.0))
    assert not np.any([h.rows for h in heard(sim, local_update)])


def test_the_parts_of_a_message_have_noise_of_their_own():
    twice = lambda cohort, x_P: (pattern(cohort, x_P), pattern(cohort, x_P))
    for h in heard(some(rs.attacks.Noise(hostile=1.0, std=1.0)), twice):
        first, second = (part.double() for part in h.parts)
        assert abs((first * second).mean()) < 5 / first.numel() ** 0.5


# ---- who lies --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SENT)
@pytest.mark.parametrize(("fraction", "number"), [(0.3, 4), (0.04, 1), (1.0, 13)])
def test_a_fraction_is_drawn_once(name, fraction, number):
    """round(fraction N) clients, the same in every round and for every attack; all others say the truth."""
    sim = some(replace(ATTACKS[name], hostile=fraction), cohort=None)
    found = []
    for a, b in zip(heard(sim.replaced(uplink=()), pattern), heard(sim, pattern), strict=True):
        found.append(set(a.ids[(a.rows != b.rows).any(1)].tolist()))
    assert len(found[0]) == number
    assert found[0] == found[1] == found[2] == hostile_of(sim)


def test_another_seed_draws_others_and_a_larger_fraction_adds_to_them():
    drawn = lambda fraction, seed: hostile_of(some(rs.attacks.Mimic(hostile=fraction), seed=seed))
    assert len({tuple(sorted(drawn(0.3, seed))) for seed in range(6)}) > 3
    assert drawn(0.3, 0) < drawn(0.6, 0)


@pytest.mark.parametrize("hostile", [(3,), (12, 0, 12), ()])
def test_clients_may_be_named(hostile):
    sim = some(rs.attacks.SignFlip(hostile=hostile), cohort=None)
    for a, b in zip(heard(sim.replaced(uplink=()), pattern), heard(sim, pattern), strict=True):
        assert set(a.ids[(a.rows != b.rows).all(1)].tolist()) == set(hostile)
        assert (a.rows != b.rows).any(1).sum() == len(set(hostile))


@pytest.mark.parametrize("name", ATTACKS)
def test_a_client_that_does_not_exist_is_refused(name):
    words = (
        r"hostile names client 13, but the 13 clients are numbered 0 to 12\. Name clients among them, or give"
    )
    attack = ATTACKS[name]
    with pytest.raises(rs.ConfigError, match=f"{type(attack).__name__}.{words}"):
        some(replace(attack, hostile=(2, 13, 14)))
    some(replace(attack, hostile=(2, 12)))


def test_clients_are_counted_when_data_are_loaded_if_not_before():
    data = rs.data.Quadratic(clients=4)
    fields = {"data": data, "partition": rs.partitions.ByGroup(), "model": rs.models.Linear(bias=False)}
    sim = some(rs.attacks.SignFlip(hostile=(4,)), **fields, cohort=2)
    with pytest.raises(rs.ConfigError, match=r"SignFlip\.hostile names client 4, but the 4 clients"):
        sim.load()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: rs.attacks.SignFlip(hostile=1.5), "SignFlip.hostile must be less than or equal to 1"),
        (lambda: rs.attacks.SignFlip(hostile=(-1,)), "SignFlip.hostile must be"),
        (lambda: rs.attacks.SignFlip(hostile=0.1, scale=0.0), "SignFlip.scale must be greater than 0"),
        (lambda: rs.attacks.Noise(hostile=0.1, std=-1.0), "Noise.std must be greater than or equal to 0"),
        (lambda: rs.attacks.Scale(hostile=0.1, factor=-1.0), "Scale.factor must be greater than 0"),
        (
            lambda: rs.attacks.InnerProduct(hostile=0.1, scale=0.0),
            "InnerProduct.scale must be greater than 0",
        ),
        (lambda: rs.attacks.LittleIsEnough(hostile=0.1, z=-1.0), "LittleIsEnough.z must be greater than"),
    ],
)
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(rs.ConfigError) as error:
        make()
    assert str(error.value).startswith(words)


# ---- nothing else changes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("nobody", [0.0, ()])
def test_without_hostile_clients_an_experiment_is_as_without_attack(name, nobody):
    sim = some(replace(ATTACKS[name], hostile=nobody), rounds=2)
    attacked, plain = sim.run(None), sim.replaced(uplink=()).run(None)
    assert torch.equal(attacked.x_P, plain.x_P)
    columns = plain.metrics.columns.drop("seconds")
    assert attacked.metrics[columns].equals(plain.metrics[columns])


@pytest.mark.parametrize("name", ATTACKS)
def test_bits_are_those_of_honest_clients(name):
    sim = some(ATTACKS[name])
    for a, b in zip(heard(sim.replaced(uplink=()), pattern), heard(sim, pattern), strict=True):
        assert (a.clients.bits_up, a.clients.bits_down) == (b.clients.bits_up, b.clients.bits_down)
        assert b.clients.bits_up == 32 * SIZE * b.rows.shape[1]
        assert (b.clients.reports["message_bits"] == 32 * b.rows.shape[1]).all()


@pytest.mark.parametrize("name", SENT)
def test_measurements_see_the_truth(name):
    sim = some(ATTACKS[name])
    truth, seen = (heard(s, local_update, measure=True) for s in (sim.replaced(uplink=()), sim))
    assert all(np.array_equal(a.rows, b.rows) for a, b in zip(truth, seen, strict=True))


def test_a_lie_is_compressed_like_the_truth():
    topk = rs.compressors.TopK(fraction=0.01)
    sim = some(rs.attacks.SignFlip(hostile=0.3, scale=2.0), topk)
    hostile = hostile_of(sim)
    truth, told = heard(sim.replaced(uplink=()), pattern), heard(sim, pattern)
    P = truth[0].rows.shape[1]
    for a, b in zip(truth, told, strict=True):
        for i, client in enumerate(a.ids):
            lie = a.rows[i] * (-2 if client in hostile else 1)
            expected, keep = (
                np.zeros(P, np.float32),
                np.argsort(-np.abs(lie), kind="stable")[: round(P / 100)],
            )
            expected[keep] = lie[keep]
            np.testing.assert_array_equal(b.rows[i], expected)
        assert b.clients.bits_up == SIZE * round(P / 100) * (32 + int(np.ceil(np.log2(P))))


def test_two_attacks_by_one_set_of_clients():
    """The second lies about what the first made."""
    sim = some(ATTACKS["Scale"], ATTACKS["SignFlip"])
    hostile = hostile_of(sim)
    for a, b in zip(heard(sim.replaced(uplink=()), pattern), heard(sim, pattern), strict=True):
        factor = np.array([-6.0 if client in hostile else 1.0 for client in a.ids], np.float32)
        np.testing.assert_allclose(b.rows, a.rows * factor[:, None], rtol=1e-6)


# ---- wherever it runs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SENT)
def test_rows_are_the_same_for_any_blocks(name):
    """To the bit, but for what comes from a sum over blocks."""
    cut = lambda block: some(ATTACKS[name], execution=rs.Execution(block=block))
    one, three, all_ = (heard(cut(block), pattern) for block in (1, 3, 8))
    tolerance = 1e-5 if {"mean", "std"} & set(ATTACKS[name].watches) else 0
    for a, b, c in zip(one, three, all_, strict=True):
        np.testing.assert_allclose(b.rows, a.rows, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(c.rows, a.rows, rtol=tolerance, atol=tolerance)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_two_actors_give_the_bits_of_none():
    """Every attack at once, by a client each, on a rule with two rows to a message and rows that clients keep."""
    hostile = (rs.attacks.LabelFlip(hostile=(0,)), rs.attacks.SignFlip(hostile=(1,)))
    hostile += (rs.attacks.Noise(hostile=(2,), std=0.01), rs.attacks.Scale(hostile=(3,), factor=2.0))
    hostile += (rs.attacks.InnerProduct(hostile=(4,)), rs.attacks.LittleIsEnough(hostile=(5, 6), z=1.0))
    hostile += (rs.attacks.Mimic(hostile=(7,)), rs.compressors.Feedback(rs.compressors.TopK(fraction=0.1)))
    sim = some(*hostile, rule=rs.rules.Scaffold(), rounds=4)
    here = sim.run(None)
    there = sim.replaced(placement=rs.Placement(actors=2, cpus_per_actor=0.5)).run(None)
    assert torch.equal(here.x_P, there.x_P)
    drop = lambda result: result.metrics.drop(columns="seconds")
    assert drop(here).equals(drop(there))
