"""What the papers say of votes: where plain signs go wrong, how often stochastic ones do, and what liars can do."""

import numpy as np
import pytest
import torch

import raysim as rs
from raysim.core import streams
from raysim.core.sending import Sender
from tests.rules.votes import PLAIN, StochasticSign, moved

MajorityVote = rs.rules.MajorityVote
SURE = np.log(2e9)  # ln(2 / (1 - confidence)): what is said of frequencies is wrong by chance once in 10^9


def votes(gradients, bound, draws):
    """Stochastic signs of M clients in many independent coordinates, [M, draws]."""
    rows_MD = torch.tensor(gradients, dtype=torch.float32)[:, None].repeat(1, draws)
    ids = torch.arange(len(gradients))
    who = Sender(ids.numpy(), streams.key(3, ids), lambda name, fill: fill, [torch.Size([draws])])
    return StochasticSign(bound=bound).apply(rows_MD, who)[0].double().numpy()


# ---- gradients -1, -1 and 5, whose mean is 1: the optimum is one to the left ---------------------------------


def test_plain_signs_go_the_wrong_way_and_stay_away():
    """They find the median of the clients' optima, here one to the right."""
    first = moved([-1, -1, 5], MajorityVote(vote=PLAIN, lr=0.05), 1)
    last = moved([-1, -1, 5], MajorityVote(vote=PLAIN, lr=0.05), 100)
    np.testing.assert_allclose(first, 0.05, rtol=1e-4)
    np.testing.assert_allclose(last, 1.0, atol=0.1)


@pytest.mark.parametrize("bound", [5.0, 10.0])
def test_stochastic_signs_go_the_right_way_in_the_mean(bound):
    """400 coordinates, one round: the mean step is -lr (2 P(vote = +1) - 1), exactly known for three voters."""
    step = moved([-1, -1, 5], MajorityVote(vote=StochasticSign(bound=bound), lr=1.0), 1, copies=400)
    a, b, c = (np.array([-1, -1, 5]) / bound + 1) / 2
    chance = a * b * c + a * b * (1 - c) + a * c * (1 - b) + b * c * (1 - a)
    assert chance > 0.5
    sure = 2 * np.sqrt(SURE / (2 * 400))
    assert step.mean() == pytest.approx(1 - 2 * chance, abs=sure)
    assert set(step.round(4)) == {-1, 1}
    many = votes([-1, -1, 5] * 7, bound, 4000).sum(0)
    assert np.mean(many > 0) - 0.5 > np.sqrt(SURE / (2 * 4000))  # 21 voters: beyond doubt


@pytest.mark.parametrize("bound", [6.0, 10.0])
def test_stochastic_signs_of_many_clients_converge_to_the_optimum(bound):
    """63 clients, 50 coordinates; the distance left is that of the last steps."""
    rule = MajorityVote(vote=StochasticSign(bound=bound), lr=rs.schedules.InverseSqrt(lr=0.2))
    where = moved([-1, -1, 5] * 21, rule, 150, copies=50)
    assert np.abs(where + 1).mean() < 0.2
    assert where.mean() == pytest.approx(-1, abs=0.08)


# ---- how often a vote is wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [5.0, 8.0, 20.0])
@pytest.mark.parametrize("M", [9, 30, 90])
def test_wrong_votes_are_rarer_than_hoeffding_says(M, bound):
    """P(wrong) <= exp(-(Σ g/b)² / (2M)), a tie being wrong; 10,000 votes."""
    gradients = ([-1, -1, 5] * M)[:M]
    wrong = np.mean(votes(gradients, bound, 10_000).sum(0) <= 0)
    bound_on_it = np.exp(-((sum(gradients) / bound) ** 2) / (2 * M))
    assert wrong - np.sqrt(SURE / 20_000) < bound_on_it
    assert wrong < 0.5
    plain = np.sign(gradients).sum()
    assert plain < 0  # where the vote of plain signs is never right


def test_more_clients_are_wrong_less_often_and_a_larger_bound_more_often():
    wrong = lambda M, bound: np.mean(votes(([-1, -1, 5] * M)[:M], bound, 10_000).sum(0) <= 0)
    slack = 2 * np.sqrt(SURE / 20_000)
    assert wrong(9, 5.0) > wrong(90, 5.0) + slack
    assert wrong(90, 20.0) > wrong(90, 5.0) + slack


# ---- hostile voters ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hostile", "right"), [(0, True), (3, True), (4, False), (8, False)])
def test_votes_are_right_in_the_mean_while_the_liars_are_fewer_than_the_margin(hostile, right):
    """21 honest clients with Σ g / b = 3.5; B opposite votes leave 3.5 - B."""
    honest = votes([-1, -1, 5] * 7, 6.0, 100_000).sum(0)
    margin = (honest - hostile).mean()
    assert margin == pytest.approx(3.5 - hostile, abs=42 * np.sqrt(SURE / 200_000))
    assert (margin > 0) == right


@pytest.mark.parametrize(("hostile", "away"), [(2, False), (6, True)])
def test_liars_who_know_the_mean_keep_the_model_at_a_distance_of_b_over_m_each(hostile, away):
    """Honest votes lean by M d / b at distance d, so B liars hold it at d = B b / M: nearer, or farther, than at first.

    21 honest clients one away from their optimum, b = 6; 60 coordinates. Chance and the last steps leave 0.15.
    """
    liars = tuple(range(21, 21 + hostile))
    attack = rs.attacks.InnerProduct(hostile=liars, scale=1e6)
    rule = MajorityVote(vote=StochasticSign(bound=6.0), lr=rs.schedules.InverseSqrt(lr=0.2))
    gradients = [-1, -1, 5] * 7 + [0] * hostile
    where = moved(gradients, rule, 150, copies=60, uplink=(attack,))
    distance = np.abs(where + 1).mean()
    assert distance == pytest.approx(hostile * 6 / 21, abs=0.15)
    assert (distance > 1) == away


# ---- feedback ------------------------------------------------------------------------------------------------


def test_feedback_removes_the_bias_of_a_small_vote():
    """Three clients at the optimum of their mean, 200 coordinates: gradients -1, -1 and 2.

    A vote of three leans by (Σ ε - Π ε) / 2 with ε = g / b, which is zero at a distance t b from the optimum with
    3 t = (t - 0.4)² (t + 0.8) for b = 2.5. The mean of votes, which feedback answers with, leans by Σ ε / 3.
    """
    t = [r.real for r in np.roots([1, 0, -0.48 - 3, 0.128]) if abs(r.imag) < 1e-9 and 0 < r.real < 0.1]
    vote, rounds = StochasticSign(bound=2.5), 500
    bare, feedback = (
        moved([-1, -1, 2], MajorityVote(vote=vote, lr=0.02, feedback=f), rounds, copies=200)
        for f in (False, True)
    )
    assert bare.mean() == pytest.approx(2.5 * t[0], abs=0.04)
    assert abs(feedback.mean()) < 0.03 < bare.mean() - 0.03
    assert (feedback**2).mean() < 0.5 * (bare**2).mean()  # the loss in excess, too


def test_feedback_does_not_help_plain_signs_find_the_mean():
    """The mean of signs knows no more of magnitudes than their majority: the model settles at the median again."""
    where = moved([-1, -1, 5], MajorityVote(vote=PLAIN, lr=0.05, feedback=True), 200)
    np.testing.assert_allclose(where, 1.0, atol=0.1)
