"""Leader against a naive LSGD from the poster and the authors' code; its stationary points, bits, refusals."""

import numpy as np
import pytest
import torch

import raysim as rs
from raysim.core.terms import Pull
from raysim.rules.leader import chained, groups_of
from tests.experiments import digits, same
from tests.workers import Stepwise, few, played, wells, wells_gradient, workers_of

N = 7


def naive(sim, rule, optimizer):
    """LSGD, worker after worker. Returns models, centre and the leader of every round."""
    workers = workers_of(sim, optimizer)
    group = groups_by_hand(N, rule.groups)
    near = [workers[0].flat] * N  # leaders of the last communication: all begin at one model
    top = workers[0].flat
    history, led = [[] for _ in workers], []
    for r in range(sim.rounds):
        scores = []
        for i, w in enumerate(workers):
            loss = train(w, rule, near[i], top)
            history[i] = [*history[i], loss][-rule.window :]
            running = sum(history[i]) / len(history[i])
            scores.append(w.loss().item() if rule.score == "full" else running)
        order = sorted(range(N), key=lambda i: (scores[i], i))
        first_of = {g: next(i for i in order if group[i] == g) for g in set(group)}
        near = [workers[first_of[g]].flat for g in group]
        led.append(order[0])
        meets = (r + 1) % rule.global_every == 0
        top = workers[order[0]].flat if meets else top
        for i, w in enumerate(workers):
            if rule.pull_at == "communication":
                w.flat = w.flat - rule.pull * (w.flat - near[i])
                if meets:
                    w.flat = w.flat - rule.global_pull * (w.flat - top)
    models = torch.stack([w.flat for w in workers])
    return models, models.mean(0), led


def train(w, rule, near, top):
    """A round's local steps of one worker; the code's prox pulls to the global leader first."""
    if rule.pull_at == "communication":
        return w.train(3)
    if rule.pull_at == "objective":
        squared = lambda x, z: 0.5 * (x - z).square().sum()
        return w.train(3, lambda x: rule.pull * squared(x, near) + rule.global_pull * squared(x, top))
    to = lambda x, z, p: (1 - p) * x + p * z
    return w.train(3, after_step=lambda x: to(to(x, top, rule.global_pull), near, rule.pull))


def groups_by_hand(clients, groups):
    """The first ``clients % groups`` groups have one client more."""
    small, more = divmod(clients, groups)
    return [g for g in range(groups) for _ in range(small + (g < more))]


RULES = {
    "single": {"pull": 0.2},
    "multi": {"pull": 0.1, "global_pull": 0.2, "groups": 3},
    "rarely": {"pull": 0.1, "global_pull": 0.3, "groups": 2, "global_every": 3, "window": 2},
    "full": {"pull": 0.2, "global_pull": 0.1, "groups": 3, "score": "full"},
}
OPTIMIZERS = {
    "SGD": (rs.optimizers.SGD(lr=0.2), lambda p: torch.optim.SGD(p, lr=0.2)),
    "momentum": (
        rs.optimizers.SGD(lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    ),
}


@pytest.mark.parametrize("pull_at", ["communication", "step", "objective"])
@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_equals_naive_lsgd(kind, pull_at, optimizer):
    rule = rs.rules.Leader(pull_at=pull_at, **RULES[kind])
    ours, theirs = OPTIMIZERS[optimizer]
    sim = few(
        rule,
        partition=rs.partitions.IID(clients=N),
        local=rs.Local(optimizer=ours, steps=3, keep_state=True),
    )
    models, centre, led = naive(sim, rule, theirs)
    x_P, own_NP, rows = played(sim)
    torch.testing.assert_close(own_NP, models, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(x_P, centre, rtol=1e-4, atol=1e-5)
    assert [row["leader"] for row in rows[1:]] == led


@pytest.mark.parametrize("window", [1, 3])
def test_leaders_that_change(window):
    """Shuffled mini-batches: the models of each round, looked at before, are combined by the losses it reports."""
    rule = rs.rules.Leader(pull=0.1, global_pull=0.2, groups=2, global_every=2, window=window)
    local = rs.Local(optimizer=rs.optimizers.SGD(lr=0.1), steps=2, batch_size=2)
    run = Stepwise(
        few(rule, local=local, data=rs.data.Digits())
    )  # clients all alike: chance decides who leads
    group, losses, led = [0, 0, 0, 1, 1], [], []
    for r in range(12):
        looking = run.clients()
        seen_CP = looking.rows(rule.models, run.server, measure=True)
        x_NP = seen_CP[np.argsort(looking.ids)]
        clients = run.step()
        losses = [*losses, clients.reports["train_loss"][np.argsort(clients.ids)]][-window:]
        score = np.mean(losses, axis=0)
        led.append(int(score.argmin()))
        assert clients.notes["leader"] == led[-1]
        assert clients.notes["leader_loss"] == pytest.approx(score.min(), rel=1e-6)
        near = x_NP[[score[:3].argmin(), 3 + score[3:].argmin()]]
        expected = x_NP - 0.1 * (x_NP - near[group])
        if r % 2 == 1:
            expected = expected - 0.2 * (expected - x_NP[led[-1]])
        torch.testing.assert_close(run.models_NP, expected, rtol=1e-5, atol=1e-6)
    assert len(set(led)) > 2


@pytest.mark.parametrize("pull_at", ["step", "objective"])
def test_forms_agree(pull_at):
    rule = rs.rules.Leader(pull_at=pull_at, pull=0.1, global_pull=0.1, groups=2)
    runs = [
        played(few(rule, execution=rs.Execution(form=f, block=2))) for f in ("loop", "stacked", "inplace")
    ]
    for x_P, own_NP, _ in runs[1:]:
        torch.testing.assert_close(x_P, runs[0][0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(own_NP, runs[0][1], rtol=1e-4, atol=1e-5)


def test_posters_step_is_the_objective_with_the_pull_over_the_step_size():
    """x <- x - η g(x) - λ (x - x̃), pulled from where the step began: plain SGD, written out for a second round."""
    run = Stepwise(few(rs.rules.Leader(pull=0.1 / 0.2, pull_at="objective")))
    run.step()
    start_NP, leader_P = run.models_NP, run.server.state["leaders"][0]
    run.step()
    workers = workers_of(run.coordinator.simulation, lambda p: torch.optim.SGD(p, lr=0.2))
    for w, start_P, after_P in zip(workers, start_NP, run.models_NP, strict=True):
        x_P = start_P
        for _ in range(3):
            w.flat = x_P
            grads = torch.autograd.grad(w.loss(), list(w.model.parameters()))
            g_P = torch.cat([g.reshape(-1) for g in grads])
            x_P = x_P - 0.2 * g_P - 0.1 * (x_P - leader_P)
        torch.testing.assert_close(after_P, x_P, rtol=1e-5, atol=1e-6)


# ---- theory ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pull_at", "pull"), [("communication", 0.05), ("step", 0.05), ("objective", 0.1)])
def test_the_leader_comes_to_rest_at_a_minimum_of_f(pull_at, pull):
    """∇f = 0 at the leader of a stationary point (Teng et al. 2019), though another worker sits in another valley.

    ``test_elastic.py`` shows the same two workers at a stationary point of elastic averaging: nobody has ∇f = 0.
    """
    rule = rs.rules.Leader(pull=pull, pull_at=pull_at)
    run = Stepwise(wells(rule), np.array([[1.3], [-0.7]], np.float32))
    for _ in range(300):
        before = run.models_NP
        clients = run.step()
    assert (run.models_NP - before).abs().max() < 1e-6
    leader, other = run.models_NP[:, 0].tolist()
    assert clients.notes["leader"] == 0
    assert leader == pytest.approx(1, abs=1e-5)
    assert abs(wells_gradient(leader)) < 1e-5
    assert other < -0.3
    assert abs(wells_gradient(other)) > 0.05


def test_a_stronger_pull_brings_everyone_to_the_leaders_valley():
    run = Stepwise(wells(rs.rules.Leader(pull=0.3)), np.array([[1.3], [-0.7]], np.float32))
    for _ in range(60):
        run.step()
    torch.testing.assert_close(run.models_NP, torch.ones(2, 1), rtol=0, atol=1e-4)


# ---- the parts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("clients", "groups"), [(7, 3), (6, 3), (5, 1), (4, 4), (13, 5)])
def test_groups_are_even_and_consecutive(clients, groups):
    assert groups_of(clients, groups).tolist() == groups_by_hand(clients, groups)


def test_chained_pulls_are_one_after_the_other():
    x_CP, a_CP = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    b_P = torch.arange(4.0)
    for moves in (
        [(0.3, a_CP), (0.2, b_P)],
        [(0.2, b_P), (0.3, a_CP)],
        [(0.3, a_CP), (0.2, b_P), (0.9, a_CP)],
        [(0.0, a_CP), (0.2, b_P)],
        [(0.3, None), (0.2, b_P)],
    ):
        moved, expected = x_CP.clone(), x_CP
        for strength, towards in moves:
            expected = expected if towards is None else (1 - strength) * expected + strength * towards
        chained(moves).apply(moved)
        torch.testing.assert_close(moved, expected)
    assert chained([(0.0, a_CP), (0.5, None)]) is None
    assert chained([(0.5, b_P)]) == Pull(0.5, b_P)


def test_equal_losses_are_led_by_the_lowest_id():
    """The same data everywhere: the same models, the same losses."""
    data = rs.data.Digits().load()
    x, y = data.x_train[:20], data.y_train[:20]
    tile = rs.data.Arrays(x_train=np.tile(x, (6, 1, 1, 1)), y_train=np.tile(y, 6), x_test=x, y_test=y)
    share = rs.partitions.Explicit(indices=[np.arange(20) + 20 * c for c in range(6)])
    run = Stepwise(few(rs.rules.Leader(groups=2, pull_at="step"), data=tile, partition=share))
    for _ in range(3):
        assert run.step().notes["leader"] == 0
    assert run.server.state["groups"].tolist() == [0, 0, 0, 1, 1, 1]


def test_without_pull_it_is_local_training():
    """Nobody moves towards anybody; the centre is the mean of models trained alone."""
    sim = few(rs.rules.Leader(pull=0.0))
    workers = workers_of(sim, lambda p: torch.optim.SGD(p, lr=0.2))
    for w in workers:
        w.train(3 * sim.rounds)
    models = torch.stack([w.flat for w in workers])
    x_P, own_NP, _ = played(sim)
    torch.testing.assert_close(own_NP, models, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(x_P, models.mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pull_at", ["communication", "step", "objective"])
def test_models_before_the_communication(pull_at):
    """What probes look at is what the round then combines; looking changes nothing."""
    local = rs.Local(
        optimizer=rs.optimizers.SGD(lr=0.05, momentum=0.9), epochs=1, batch_size=4, keep_state=True
    )
    rule = rs.rules.Leader(pull=0.5, pull_at=pull_at, groups=2, global_pull=0.2, window=2)
    run, other = Stepwise(few(rule, local=local)), Stepwise(few(rule, local=local))
    for _ in range(3):
        clients = run.clients()
        seen_CP = clients.rows(rule.models, run.server, measure=True)
        seen_NP = seen_CP[np.argsort(clients.ids)]
        run.step()
        done = other.step()
        assert torch.equal(run.server.x_P, other.server.x_P)
        if pull_at == "communication":
            leader = int(done.notes["leader"])
            assert torch.equal(run.models_NP[leader], other.models_NP[leader])
            torch.testing.assert_close(run.models_NP[leader], seen_NP[leader])  # whom nobody pulls
        else:
            assert torch.equal(run.models_NP, seen_NP)


# ---- bits, actors, resuming --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "up_rows", "down_rows"),
    [
        # down: the first model, then every round the group's leader and where due the global one
        ({}, 4 * 1, 1 + 4),
        ({"groups": 3}, 4 * 3, 1 + 4),
        ({"groups": 3, "global_pull": 0.1}, 4 * 3, 1 + 4 + 4),
        ({"groups": 3, "global_pull": 0.1, "global_every": 2}, 4 * 3, 1 + 4 + 2),
        # down: the first model, then in every round but the first what is followed through its steps
        ({"pull_at": "step"}, 4 * 1, 1 + 3),
        ({"pull_at": "objective", "groups": 3, "global_pull": 0.1, "score": "full"}, 4 * 3, 1 + 3 + 3),
    ],
)
def test_bits_by_hand(fields, up_rows, down_rows):
    """Up: a score a client and the leaders' models. Down, to every client: so many models in four rounds."""
    x_P, _, rows = played(few(rs.rules.Leader(**fields), rounds=4))
    P = len(x_P)
    assert rows[-1]["bits_up"] == 32 * (4 * 5 + up_rows * P)
    assert rows[-1]["bits_down"] == 32 * 5 * P * down_rows


LOCAL = rs.Local(optimizer=rs.optimizers.SGD(lr=0.05, momentum=0.9), epochs=1, batch_size=8, keep_state=True)
KINDS = [
    {"groups": 3, "global_pull": 0.1, "global_every": 2, "window": 3},
    {"groups": 3, "global_pull": 0.1, "global_every": 2, "pull_at": "step"},
    {"pull_at": "objective", "score": "full"},
]


@pytest.mark.parametrize("fields", KINDS)
def test_stop_and_resume_equals_one_run(tmp_path, fields):
    """Stopped between two rounds of the global leader, within the window of losses."""
    sim = digits(rule=rs.rules.Leader(**fields), local=LOCAL, cohort=None, rounds=6)
    expected = sim.run(None)
    sim.replaced(rounds=3).run(tmp_path / "run")
    assert same(expected, rs.resume(tmp_path / "run", sim))


# ---- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"pull": 1.0}, "must sum to less than 1, got 1.0 + 0.0"),
        ({"pull": 0.6, "global_pull": 0.4, "groups": 2}, "must sum to less than 1, got 0.6 + 0.4"),
        ({"pull": 2.0, "pull_at": "step"}, "must sum to less than 1"),
        ({"pull": -0.1}, "Leader.pull must be"),
        ({"groups": 0}, "Leader.groups must be"),
        ({"global_pull": 0.1}, "With one group its leader is the global leader"),
        ({"global_every": 2}, "With one group"),
        ({"pull_at": "start"}, "Leader.pull_at must be"),
        ({"score": "best"}, "Leader.score must be"),
        ({"window": 0}, "Leader.window must be"),
    ],
)
def test_fields_that_do_not_fit(fields, words):
    with pytest.raises(rs.ConfigError) as error:
        rs.rules.Leader(**fields)
    assert words in str(error.value)


def test_an_objective_may_pull_harder():
    rs.rules.Leader(pull=3.0, pull_at="objective")


def test_what_the_clients_cannot_do():
    with pytest.raises(rs.ConfigError, match=r"Leader\.groups is 6, but there are only 5 clients"):
        few(rs.rules.Leader(groups=6))
    with pytest.raises(rs.ConfigError, match="needs every client in every round"):
        few(rs.rules.Leader(), cohort=3)
    with pytest.raises(rs.ConfigError, match=r"mean of training losses, but Local\.steps is 0"):
        few(rs.rules.Leader(), local=rs.Local(optimizer=rs.optimizers.SGD(lr=0.1), steps=0))
    few(rs.rules.Leader(score="full"), local=rs.Local(optimizer=rs.optimizers.SGD(lr=0.1), steps=0))
