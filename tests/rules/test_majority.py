"""Majority votes against a naive loop, one client after the other; ties, bits, blocks, resuming, refusals."""

import numpy as np
import pytest
import torch

import raysim as rs
from raysim.core import streams
from raysim.core.cohorts import cohort_ids
from raysim.runtime.coordinator import Coordinator
from tests.experiments import digits, same
from tests.rules.votes import PLAIN, StochasticSign, moved, voting, with_gradients

MajorityVote = rs.rules.MajorityVote
N, D = 7, 8
DATA = rs.data.Quadratic(clients=N, dimension=D, examples=8, condition=4.0)


def uniform(seed, round, client, P):
    """What a client draws for its vote: its own key of the round, the message and the purpose."""
    name = "uplink.first_gradient.0.0"
    return streams.uniform(streams.key(streams.key(seed, round, "client", client, name), "sign"), P).numpy()


def naive(sim, rate):
    """Section by section: gradients, votes, their majority or the server's feedback, the step. In double precision."""
    rule, data = sim.rule, sim.data.load()
    X, y = (a.reshape(N, 8, -1).astype(np.float64) for a in (data.x_train, data.y_train))
    x = next(sim.initial_model().parameters()).detach().numpy()[0].astype(np.float64)
    e = np.zeros(D)
    for k in range(sim.rounds):
        ids, total = cohort_ids(sim.seed, k, N, sim.cohort_size(N)), np.zeros(D)
        for m in ids:
            g = X[m].T @ (X[m] @ x - y[m][:, 0]) / 8
            if rule.vote == PLAIN:
                total += np.where(g >= 0, 1, -1)
            else:
                b = rule.vote.bound
                chance = (b + np.clip(g, -b, b)) / (2 * b)
                total += np.where(uniform(sim.seed, k, int(m), D) < chance, 1, -1)
        coins = np.where(streams.bits(streams.key(sim.seed, k, "server", "ties"), D).numpy() < 0, 1, -1)
        p = total / len(ids) + e if rule.feedback else total
        s = np.where(p > 1e-9, 1, np.where(p < -1e-9, -1, coins * (rule.ties == "random")))
        if rule.feedback:
            assert np.abs(p).min() > 1e-5, "float32 would take this tie for none: choose another seed"
            answer = np.abs(p).sum() / D * s
            e = p - answer
            s = answer
        x = x - rate(k) * s
    return x


@pytest.mark.parametrize("vote", [PLAIN, StochasticSign(bound=3.0)], ids=repr)
@pytest.mark.parametrize("ties", ["zero", "random"])
@pytest.mark.parametrize("cohort", [None, 4])
def test_equals_naive_over_twenty_rounds(vote, ties, cohort):
    """With an even cohort of four, ties are frequent."""
    sim = voting(MajorityVote(vote=vote, lr=0.02, ties=ties), 20, DATA, cohort=cohort)
    np.testing.assert_allclose(sim.run(None).x_P, naive(sim, lambda k: 0.02), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("vote", [PLAIN, StochasticSign(bound=3.0)], ids=repr)
@pytest.mark.parametrize("ties", ["zero", "random"])
def test_server_feedback_equals_naive_over_twenty_rounds(vote, ties):
    sim = voting(MajorityVote(vote=vote, lr=0.1, ties=ties, feedback=True), 20, DATA, cohort=5, seed=6)
    np.testing.assert_allclose(sim.run(None).x_P, naive(sim, lambda k: 0.1), rtol=1e-4, atol=1e-5)


def test_the_step_may_follow_a_schedule():
    lr = rs.schedules.Step(lr=0.2, every=3, factor=0.5)
    sim = voting(MajorityVote(vote=PLAIN, lr=lr), 9, DATA)
    np.testing.assert_allclose(
        sim.run(None).x_P, naive(sim, lambda k: 0.2 * 0.5 ** (k // 3)), rtol=1e-4, atol=1e-5
    )


# ---- ties ----------------------------------------------------------------------------------------------------


def test_two_who_disagree_stay_where_they_are_or_toss_a_coin():
    """Ties leave every coordinate in place, or move it by ±lr, fairly and each round anew."""
    zero, random = (
        moved([-1, 1], MajorityVote(vote=PLAIN, lr=0.01, ties=t), 1, copies=400) for t in ("zero", "random")
    )
    assert (zero == 0).all()
    np.testing.assert_allclose(np.abs(random), 0.01, rtol=1e-3)
    assert abs(random.mean()) < 0.01 * 2 * np.sqrt(np.log(2e9) / 800)  # wrong by chance once in 10^9
    second = moved([-1, 1], MajorityVote(vote=PLAIN, lr=0.01, ties="random"), 2, copies=400)
    assert len(np.unique(second.round(3))) == 3


# ---- bits and metrics ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "up", "down"),
    [
        (MajorityVote(vote=PLAIN, lr=0.1), D, 2 * D),
        (MajorityVote(vote=PLAIN, lr=0.1, ties="random"), D, D),
        (MajorityVote(vote=PLAIN, lr=0.1, feedback=True), D, 2 * D + 32),
        (MajorityVote(vote=PLAIN, lr=0.1, feedback=True, ties="random"), D, D + 32),
        (MajorityVote(vote=StochasticSign(bound="max", scaled=True), lr=0.1), D + 32, 2 * D),
        (MajorityVote(vote=rs.compressors.DPSign(epsilon=0.5, delta=0.1, sensitivity=1.0), lr=0.1), D, 2 * D),
    ],
    ids=repr,
)
def test_bits(rule, up, down):
    """Three voters a round; the model once, and then every answer, to all seven."""
    metrics = voting(rule, 4, DATA, cohort=3, evaluate_every=1).run(None).metrics
    assert metrics["bits_up"].tolist() == [3 * up * k for k in range(5)]
    assert metrics["bits_down"].tolist() == [0] + [N * (32 * D + down * k) for k in range(4)]


@pytest.mark.parametrize(("gradients", "margin"), [([1, 1, 2], 1.0), ([1, 1, -1], 1 / 3), ([1, -1], 0.0)])
def test_the_margin_is_how_much_of_one_mind_clients_are(gradients, margin):
    sim, _ = with_gradients(gradients, MajorityVote(vote=PLAIN, lr=0.01), 1, copies=3)
    assert sim.run(None).metrics["vote_margin"].iloc[-1] == pytest.approx(margin)


# ---- nothing depends on where it ran -------------------------------------------------------------------------

RULES = [
    MajorityVote(vote=PLAIN, lr=0.003),
    MajorityVote(vote=StochasticSign(bound=0.2), lr=0.003, ties="random"),
    MajorityVote(vote=StochasticSign(bound="max", scaled=True), lr=0.1, feedback=True),
]
STEP = rs.Local(optimizer=rs.optimizers.SGD(lr=1.0), steps=1, batch_size=8)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_blocks_do_not_show(rule):
    """Votes are whole numbers, whose sums are exact; scaled ones are added in the tree's order, blocks or no."""
    runs = [
        digits(rule=rule, local=STEP, execution=rs.Execution(form="loop", block=block)).run(None).x_P
        for block in (1, 3, 8)
    ]
    if rule.vote == RULES[2].vote:
        for run in runs[1:]:
            torch.testing.assert_close(run, runs[0], rtol=1e-4, atol=1e-6)
        return
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_stop_and_resume_equals_one_run(rule, tmp_path):
    sim = digits(rule=rule, local=STEP, rounds=6)
    sim.replaced(rounds=2).run(tmp_path / "run")
    assert same(sim.run(None), rs.resume(tmp_path / "run", sim))


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_yaml_keeps_the_rule(rule):
    sim = digits(rule=rule, local=STEP)
    assert rs.Simulation.from_yaml(sim.to_yaml()) == sim


@pytest.mark.filterwarnings("ignore:The model is one number:UserWarning")
def test_the_uplink_comes_before_the_vote():
    """All clients flipped: every vote is the opposite."""
    rule = MajorityVote(vote=PLAIN, lr=0.01)
    flipped = moved([1, 1, -3], rule, 1, uplink=(rs.attacks.SignFlip(hostile=1.0),))
    np.testing.assert_allclose(flipped, -moved([1, 1, -3], rule, 1), rtol=1e-4)


def client_models(cohort, rule, server):
    return rule.models(cohort, server)


def test_probes_see_each_clients_own_step():
    sim = voting(MajorityVote(vote=PLAIN, lr=0.1), 1, DATA)
    coordinator = Coordinator(sim, None)
    server = coordinator._prepare()
    rows_CP = coordinator._clients(server).rows(client_models, sim.rule, server, measure=True)
    data, x = DATA.load(), server.x_P.double().numpy()
    for m, row in enumerate(rows_CP):
        X, y = data.x_train[8 * m : 8 * m + 8], data.y_train[8 * m : 8 * m + 8, 0]
        np.testing.assert_allclose(row, x - 0.1 * X.T @ (X @ x - y) / 8, rtol=1e-4, atol=1e-5)


def local(**fields):
    return rs.Local(**({"optimizer": rs.optimizers.SGD(lr=1.0), "steps": 1} | fields))


def refused(make):
    digits(rule=MajorityVote(vote=PLAIN, lr=0.1), local=make())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MajorityVote(vote=PLAIN, lr=0.0), "MajorityVote.lr must be"),
        (lambda: MajorityVote(vote=PLAIN, lr=0.1, ties="up"), "MajorityVote.ties must be 'zero' or 'random'"),
        (lambda: MajorityVote(vote="Sign", lr=0.1), "MajorityVote.vote must be"),
        (
            lambda: local(steps=2),
            "MajorityVote takes one gradient a round, but Local has steps=2. Write steps=1",
        ),
        (lambda: local(steps=None, epochs=1), "but Local has epochs=1"),
        (lambda: local(optimizer=rs.optimizers.SGD(lr=1.0, momentum=0.9)), "keeps state"),
        (lambda: local(optimizer=rs.optimizers.SGD(lr=1.0, weight_decay=0.1)), "without weight decay"),
    ],
)
def test_refusals(make, words):
    with pytest.raises(rs.ConfigError) as error:
        refused(make)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
