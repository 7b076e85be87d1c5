"""Adversarial training: attacks that stay in their ball, find the worst point where it is known, and train robustly."""

import copy
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import raysim as rs
from raysim.core import execution, streams
from raysim.core.batches import Batch
from raysim.core.cohorts import plan
from raysim.core.host import Host, Setup
from raysim.core.interfaces import Objective, Optimizer
from raysim.core.losses import CrossEntropy, SquaredError
from raysim.core.task import Task
from raysim.objectives import Adversarial
from tests.experiments import arrays, digits, same

GEN = torch.Generator().manual_seed(0)
KEYS = streams.key(0, torch.arange(3))
SPHERE = {"data": rs.data.UnitSphere(rs.data.Digits()), "model": rs.models.DeepReLU(width=16, depth=2)}


def randn(*shape):
    return torch.randn(*shape, generator=GEN)


def on_sphere(*shape):
    x = randn(*shape)
    return x / x.norm(dim=-1, keepdim=True)


def away(norm, attacked, x):
    difference = (attacked - x).flatten(2)
    return difference.abs().amax(-1) if norm == "linf" else difference.norm(dim=-1)


# ---- the attack ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["linf", "l2", "sphere"])
@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize("radius", [0.05, 0.8])
def test_attacks_stay_in_their_ball_and_raise_the_loss(norm, random_start, radius):
    task = Task(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)), CrossEntropy())
    x_CP = task.initial() + 0.5 * randn(3, task.P)
    batch = Batch(on_sphere(3, 20, 6), torch.randint(0, 3, (3, 20), generator=GEN))
    gradient = lambda x: task.input_gradient(x_CP, Batch(x, batch.y_CB))
    labels = [(b, batch.y_CB[:, b : b + 1]) for b in range(20)]
    before = batch.x_CB.clone()
    attack = Adversarial(radius=radius, norm=norm, random_start=random_start)
    attacked = attack.inputs(gradient, batch.x_CB, KEYS)
    assert torch.equal(batch.x_CB, before)
    assert (away(norm, attacked, batch.x_CB) <= radius + 1e-6).all()
    assert (away(norm, attacked, batch.x_CB) > 0.5 * radius).float().mean() > 0.9
    if norm == "sphere":
        torch.testing.assert_close(attacked.norm(dim=-1), torch.ones(3, 20))
    each = lambda x: torch.stack([task.value(x_CP, Batch(x[:, b : b + 1], y)) for b, y in labels])
    rise = each(attacked) - each(batch.x_CB)
    assert (rise > -1e-6).float().mean() > 0.95  # near a kink of the ball the last step may overshoot
    assert (task.value(x_CP, Batch(attacked, batch.y_CB)) > task.value(x_CP, batch)).all()


def linear_task(loss, outputs):
    task = Task(nn.Sequential(nn.Linear(6, outputs)), loss)
    return task, task.initial() + 0.5 * randn(3, task.P)


@pytest.mark.parametrize("norm", ["linf", "l2", "sphere"])
@pytest.mark.parametrize("random_start", [True, False])
def test_logistic_regression_is_attacked_in_closed_form(norm, random_start):
    """The loss falls with the margin (w_y - w_other) x: the worst x is as far against that direction as can be."""
    task, x_CP = linear_task(CrossEntropy(), 2)
    x, y = on_sphere(3, 7, 6), torch.randint(0, 2, (3, 7), generator=GEN)
    w = x_CP[:, :12].view(3, 2, 6)
    d = torch.stack([w[c, 1 - y[c]] - w[c, y[c]] for c in range(3)])
    rho = 0.3
    if norm == "linf":
        expected = x + rho * d.sign()
    elif norm == "l2":
        expected = x + rho * d / d.norm(dim=-1, keepdim=True)
    else:
        t = d - (d * x).sum(-1, keepdim=True) * x
        theta = 2 * np.arcsin(rho / 2)
        expected = np.cos(theta) * x + np.sin(theta) * t / t.norm(dim=-1, keepdim=True)
        peak = d / d.norm(dim=-1, keepdim=True)  # the best point of all, where the cap holds it
        inside = (peak - x).norm(dim=-1, keepdim=True) <= rho
        expected = torch.where(inside, peak, expected)
    attack = Adversarial(radius=rho, norm=norm, random_start=random_start, steps=60, step_size=0.05)
    got = attack.inputs(lambda a: task.input_gradient(x_CP, Batch(a, y)), x, KEYS)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5 if norm == "linf" else 2e-3)


def test_least_squares_is_attacked_by_the_sign_of_the_residual():
    """½(w x + b - y)² grows fastest away from y: x + ρ sign(w (w x + b - y)); also what FGSM does in one step."""
    task, x_CP = linear_task(SquaredError(), 1)
    x, y = randn(3, 7, 6), randn(3, 7, 1)
    w, b = x_CP[:, None, :6], x_CP[:, None, 6:]
    expected = x + 0.2 * (w * ((w * x).sum(-1, keepdim=True) + b - y)).sign()
    gradient = lambda a: task.input_gradient(x_CP, Batch(a, y))
    pgd = Adversarial(radius=0.2, random_start=False)
    fgsm = Adversarial(radius=0.2, steps=1, step_size=0.2, random_start=False)
    for attack in (pgd, fgsm):
        torch.testing.assert_close(attack.inputs(gradient, x, KEYS), expected, rtol=0, atol=1e-6)


def naive_cap_pgd(gradient, x, rho, steps):
    """Zhang et al.'s adversary on the cap, one example, float64."""
    at, alpha = x.copy(), 2 * rho / steps
    for _ in range(steps):
        g = gradient(at)
        g = g - at * (at @ g)
        at = at + alpha * g / np.linalg.norm(g)
        at /= np.linalg.norm(at)
        if np.linalg.norm(at - x) > rho:
            theta = 2 * np.arcsin(rho / 2)
            t = at - (at @ x) * x
            at = np.cos(theta) * x + np.sin(theta) * t / np.linalg.norm(t)
    return at


def test_equals_naive_ascent_on_the_cap():
    matrix = randn(6, 6).double()
    x = on_sphere(3, 4, 6)
    got = Adversarial(radius=0.4, norm="sphere", random_start=False).inputs(
        lambda a: (a.double() @ (matrix + matrix.T)).float(), x, KEYS
    )
    quadratic = (matrix + matrix.T).numpy()
    for c in range(3):
        for b in range(4):
            row = x[c, b].double().numpy()
            expected = naive_cap_pgd(lambda a: quadratic @ a, row / np.linalg.norm(row), 0.4, 10)
            np.testing.assert_allclose(got[c, b], expected, atol=1e-5)


def test_random_starts_are_spread_as_written():
    nothing = lambda a: torch.zeros_like(a)  # so that the start is all there is
    x = on_sphere(3, 2000, 3)
    start = {
        n: Adversarial(radius=0.5, norm=n).inputs(nothing, x, KEYS) - x for n in ("linf", "l2", "sphere")
    }
    quantiles = torch.linspace(0, 1, 6000)
    uniform = lambda v: (v.flatten().sort().values - quantiles).abs().max() < 0.03  # Kolmogorov-Smirnov
    assert uniform(start["linf"][..., 0] + 0.5)
    assert uniform((start["l2"].norm(dim=-1) / 0.5) ** 3)
    assert uniform(start["sphere"].norm(dim=-1) / 0.5)
    for move in start.values():
        assert move.mean((0, 1)).abs().max() < 0.02
        assert not torch.equal(move[0], move[1])


@pytest.mark.parametrize("norm", ["linf", "l2", "sphere"])
def test_a_clients_attack_knows_nothing_of_its_stack(norm):
    task, x_CP = linear_task(CrossEntropy(), 2)
    x, y = on_sphere(3, 7, 6), torch.randint(0, 2, (3, 7), generator=GEN)
    attack = Adversarial(radius=0.3, norm=norm)
    made = lambda c, n: attack.inputs(
        lambda a: task.input_gradient(x_CP[c], Batch(a, y[c, :n])), x[c, :n], KEYS[c]
    )
    together, alone = made(slice(0, 3), 7), made(slice(1, 2), 5)  # nor of padding
    torch.testing.assert_close(alone, together[1:2, :5], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_limits_of_the_inputs_are_kept(norm):
    x = torch.rand(3, 5, 1, 2, 3, generator=GEN)
    attack = Adversarial(radius=0.5, norm=norm, clip=(0, 1))
    got = attack.inputs(lambda a: torch.ones_like(a), x, KEYS)
    assert got.shape == x.shape
    assert got.min() >= 0
    assert got.max() <= 1
    assert (away(norm, got, x) <= 0.5 + 1e-6).all()
    with pytest.raises(rs.ConfigError, match=r"inputs go from .* to 1\.5"):
        attack.inputs(lambda a: a, x.clamp(max=0.9) * 0 + 1.5, KEYS)


# ---- in the engine ---------------------------------------------------------------------------------------------


def adversarial(**fields):
    return rs.Local(
        optimizer=rs.optimizers.SGD(lr=0.1), epochs=1, batch_size=8, objective=Adversarial(**fields)
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"local": adversarial(radius=0.5, norm="l2", steps=3)},
        {"local": adversarial(radius=0.1, steps=3)},
        {"local": adversarial(radius=0.3, norm="sphere", steps=3), **SPHERE},
    ],
    ids=["l2", "linf", "sphere"],
)
def test_forms_agree_on_ragged_clients(fields):
    runs = [
        digits(rounds=2, execution=rs.Execution(form=f, block=3), **fields).run(None)
        for f in ("loop", "stacked", "inplace")
    ]
    for other in runs[1:]:
        torch.testing.assert_close(runs[0].x_P, other.x_P, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            runs[0].metrics["train_loss"][1:], other.metrics["train_loss"][1:], rtol=1e-4
        )
    plain = digits(
        rounds=2, **(fields | {"local": rs.Local(rs.optimizers.SGD(lr=0.1), epochs=1, batch_size=8)})
    )
    assert (runs[0].metrics["train_loss"][1:] > plain.run(None).metrics["train_loss"][1:]).all()
    assert runs[0].metrics["loss"][0] == pytest.approx(plain.run(None).metrics["loss"][0], rel=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not execution.has_compiler(), reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns about itself
def test_compiled_agrees_on_ragged_clients():
    fields = {
        "model": rs.models.Linear(),
        "local": rs.Local(
            rs.optimizers.SGD(lr=0.1),
            epochs=1,
            batch_size=64,
            objective=Adversarial(radius=0.5, norm="l2", steps=2),
        ),
        "partition": rs.partitions.Dirichlet(clients=8, alpha=1.0),
        "cohort": 3,
        "rounds": 1,
    }
    runs = [
        digits(**fields, execution=rs.Execution(form=f, block=3)).run(None) for f in ("stacked", "compiled")
    ]
    torch.testing.assert_close(runs[0].x_P, runs[1].x_P, rtol=1e-4, atol=1e-5)


def test_dropout_of_the_step_is_the_attackers_too():
    net = lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, 10)
    )
    runs = [
        digits(
            model=rs.models.Custom(net),
            local=adversarial(radius=0.5, norm="l2", steps=3),
            rounds=2,
            execution=rs.Execution(form=form, block=3),
        ).run(None)
        for form in ("loop", "stacked")
    ]
    torch.testing.assert_close(runs[0].x_P, runs[1].x_P, rtol=1e-4, atol=1e-5)


def naive_l2_pgd(model, x, y, rho, steps):
    at = x.clone()
    for _ in range(steps):
        at.requires_grad_()
        g = torch.autograd.grad(F.cross_entropy(model(at), y, reduction="sum"), at)[0]
        with torch.no_grad():
            at = at + 2 * rho / steps * g / g.norm(dim=1, keepdim=True)
            d = at - x
            at = x + d * (rho / d.norm(dim=1, keepdim=True)).clamp(max=1)
    return at.detach()


@pytest.mark.parametrize("form", ["loop", "stacked", "inplace"])
@pytest.mark.parametrize("steps", [1, 3])
def test_equals_naive_adversarial_federated_averaging(form, steps):
    """Madry et al.'s training inside FedAvg, one client after the other, full batches, 20 rounds."""
    data = arrays()
    sim = digits(
        data=data,
        partition=rs.partitions.Sizes(clients=5),
        model=rs.models.MLP(hidden=(6,), activation="tanh"),
        local=rs.Local(
            rs.optimizers.SGD(lr=0.2),
            steps=steps,
            objective=Adversarial(radius=0.4, norm="l2", steps=4, random_start=False),
        ),
        cohort=None,
        rounds=20,
        execution=rs.Execution(form=form, block=2),
    )
    loaded = data.load()
    shares = sim.partition.split(loaded, sim.seed)
    model = sim.initial_model()
    for _ in range(20):
        trained = []
        for share in shares:
            client = copy.deepcopy(model)
            sgd = torch.optim.SGD(client.parameters(), lr=0.2)
            x, y = torch.from_numpy(loaded.x_train[share]), torch.from_numpy(loaded.y_train[share])
            for _ in range(steps):
                attacked = naive_l2_pgd(client, x, y, 0.4, 4)
                sgd.zero_grad()
                F.cross_entropy(client(attacked), y).backward()
                sgd.step()
            trained.append(torch.cat([p.detach().reshape(-1) for p in client.parameters()]))
        mean = sum(len(s) / 60 * t for s, t in zip(shares, trained, strict=True))
        nn.utils.vector_to_parameters(mean, model.parameters())
    torch.testing.assert_close(sim.run(None).x_P, mean, rtol=1e-4, atol=1e-5)


@dataclass(frozen=True)
class Counted(Objective):
    """Adds 1 to the inputs and notes that it was asked."""

    calls: tuple = ()

    def inputs(self, gradient, x_CB, key_C):
        Counted.seen.append((len(x_CB), key_C.clone()))
        return x_CB + 1


@dataclass(frozen=True)
class Searching(Optimizer):
    """Looks at the loss at three points, as a line search does, and notes the batches it looked at."""

    lr: float = 0.1

    def step(self, objective, x_CP, state, lr):
        loss_C, grad_CP = objective.value_and_grad(x_CP)
        torch.testing.assert_close(objective.value(x_CP), loss_C, rtol=1e-4, atol=1e-5)
        objective.value(x_CP - lr * grad_CP)
        x_CP.sub_(grad_CP, alpha=lr)
        return loss_C


@pytest.mark.parametrize("form", ["loop", "stacked", "inplace"])
def test_a_batch_is_attacked_once_for_all_that_a_step_evaluates(form):
    Counted.seen = []
    local = rs.Local(Searching(), steps=3, batch_size=8, objective=Counted())
    digits(local=local, rounds=2, cohort=6, execution=rs.Execution(form=form, block=3)).run(None)
    assert [n for n, _ in Counted.seen] == [3] * (2 * 2 * 3)  # rounds, blocks, steps
    keys = torch.cat([key_C for _, key_C in Counted.seen])
    assert len(keys.unique()) == len(keys)  # each client and step draws anew


@pytest.mark.parametrize("form", ["loop", "stacked", "inplace"])
@pytest.mark.parametrize("keep", [False, True])
def test_gradients_of_a_step_are_attacked_and_full_ones_are_not(form, keep):
    Counted.seen = []
    local = rs.Local(rs.optimizers.SGD(lr=0.1), steps=1, objective=Counted(), keep_state=keep)
    sim = digits(local=local, model=rs.models.MLP(hidden=(8,), activation="tanh"))
    dataset, shards = sim.load()
    host = Host(Setup(dataset, shards, sim.initial_model(dataset), local, 0, form))
    start_P = host.task.initial()

    def both(cohort, x_P):
        data = cohort.data()
        shifted = Batch(data.x_CB + 1, data.y_CB, data.weight_CB)
        x_CP = x_P.expand(len(cohort), -1).contiguous()
        of = lambda batch: host.task.stacked(x_CP, batch)[1]
        pairs = [(cohort.gradient(x_P), of(data)), (cohort.gradient(x_P, step=0), of(shifted))]
        pairs += [(cohort.loss(x_P), host.task.value(x_CP, data))]
        pairs += [((x_P - cohort.train(x_P)) / 0.1, of(shifted)), (-cohort.update(x_P) / 0.1, of(shifted))]
        for got, expected in pairs:
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
        return x_CP

    host.exchange(both, (start_P,), plan(local, shards, np.arange(30), 0, 5), "none")


def robust_loss(result, data, attack):
    """Mean loss on the attacked test set."""
    task = Task(result.model(), data.loss)
    x, y = torch.from_numpy(data.x_test)[None], torch.from_numpy(data.y_test)[None]
    x_1P = result.x_P[None]
    attacked = attack.inputs(lambda a: task.input_gradient(x_1P, Batch(a, y)), x, streams.key("test")[None])
    return task.value(x_1P, Batch(attacked, y)).item(), task.value(x_1P, Batch(x, y)).item()


@pytest.mark.parametrize("norm", ["linf", "sphere"])
def test_training_against_the_attack_lowers_the_robust_loss(norm):
    attack = Adversarial(radius={"linf": 0.3, "sphere": 0.25}[norm], norm=norm, steps=5)
    fields = {"rounds": 10, "cohort": None, "evaluate_every": 10, "partition": rs.partitions.IID(clients=6)}
    lr = 0.2
    if norm == "sphere":
        fields |= {"data": rs.data.UnitSphere(rs.data.Digits(), targets="labels")}
        lr = 1.0
    robust, clean = (
        digits(local=rs.Local(rs.optimizers.SGD(lr=lr), epochs=1, batch_size=8, objective=o), **fields).run(
            None
        )
        for o in (attack, None)
    )
    data = digits(**fields).data.load()
    (robust_attacked, robust_plain), (clean_attacked, clean_plain) = (
        robust_loss(r, data, attack) for r in (robust, clean)
    )
    assert robust_attacked < 0.9 * clean_attacked
    assert clean_plain < robust_plain  # which is what it costs


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("norm", ["linf", "l2", "sphere"])
def test_same_bits_in_actors(norm):
    fields = dict(SPHERE) if norm == "sphere" else {}
    sim = digits(local=adversarial(radius=0.2, norm=norm, steps=3), rounds=3, **fields)
    on = rs.Placement(actors=2, cpus_per_actor=0.5)
    assert same(sim.run(None), sim.replaced(placement=on).run(None))


# ---- what is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"radius": 0.0}, "radius must be greater than 0"),
        ({"radius": 0.1, "steps": 0}, "steps"),
        ({"radius": 0.1, "step_size": -1.0}, "step_size"),
        ({"radius": 0.1, "norm": "l1"}, "norm"),
        ({"radius": 0.1, "clip": (1.0, 0.0)}, "smallest and a larger largest"),
        ({"radius": 0.1, "clip": (0.0, 1.0), "norm": "sphere"}, "off the sphere"),
        ({"radius": 2.1, "norm": "sphere"}, "at most 2"),
    ],
)
def test_bad_fields(fields, words):
    with pytest.raises(rs.ConfigError, match=words):
        Adversarial(**fields)


def test_tokens_have_no_neighbourhood():
    x = np.arange(60).reshape(10, 6) % 7
    text = rs.data.Arrays(x_train=x, y_train=x, x_test=x, y_test=x)
    sim = digits(
        data=text,
        partition=rs.partitions.IID(clients=2),
        model=rs.models.CharGRU(embedding=2, hidden=3),
        local=adversarial(radius=0.1),
        cohort=None,
    )
    with pytest.raises(rs.ConfigError, match=r"Local\.objective Adversarial .* tokens \(int64\)"):
        sim.run(None)


def test_the_sphere_needs_data_on_it():
    with pytest.raises(rs.ConfigError, match=r"needs inputs of length 1.*UnitSphere"):
        digits(local=adversarial(radius=0.1, norm="sphere")).run(None)
