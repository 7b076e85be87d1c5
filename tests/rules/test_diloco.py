"""DiLoCo: the recipe by its name is Averaging with the same parts, and torch's optimisers on every side."""

import copy

import pytest
import torch
from torch.nn import functional as F

import raysim as rs
from tests.experiments import arrays, digits

SGD = rs.optimizers.SGD
INNER = rs.optimizers.AdamW(lr=0.003, beta2=0.95, weight_decay=0.1)


@pytest.mark.parametrize("lr", [0.7, rs.schedules.Step(lr=0.7, every=2, factor=0.5)])
def test_is_averaging_with_a_nesterov_server_to_the_last_bit(lr):
    local = rs.Local(optimizer=INNER, epochs=1, batch_size=8, keep_state=True)
    server = SGD(lr=lr, momentum=0.9, nesterov=True)
    runs = [
        digits(rule=rule, local=local, rounds=6).run(None).x_P
        for rule in (rs.rules.DiLoCo(lr=lr), rs.rules.Averaging(server=server, weighting="uniform"))
    ]
    assert torch.equal(*runs)


def test_equals_torch_optimizers_on_both_sides():
    """Workers one after the other, each with an AdamW of its own that lives on; torch's Nesterov SGD outside."""
    data = arrays(n=90, features=6)
    sim = rs.Simulation(
        data=data,
        partition=rs.partitions.IID(clients=3),
        model=rs.models.Linear(),
        local=rs.Local(optimizer=INNER, steps=4, keep_state=True),
        rule=rs.rules.DiLoCo(),
        rounds=20,
    )
    loaded, model = data.load(), sim.initial_model()
    shares = [torch.from_numpy(s) for s in sim.partition.split(loaded, sim.seed)]
    x, y = torch.from_numpy(loaded.x_train), torch.from_numpy(loaded.y_train)
    workers = [copy.deepcopy(model) for _ in shares]
    inner = [
        torch.optim.AdamW(w.parameters(), lr=0.003, betas=(0.9, 0.95), weight_decay=0.1) for w in workers
    ]
    outer = torch.optim.SGD(model.parameters(), lr=0.7, momentum=0.9, nesterov=True)
    for _ in range(sim.rounds):
        for worker, optimizer, share in zip(workers, inner, shares, strict=True):
            worker.load_state_dict(model.state_dict())
            for _ in range(4):
                optimizer.zero_grad()
                F.cross_entropy(worker(x[share]), y[share]).backward()
                optimizer.step()
        for p, *theirs in zip(model.parameters(), *[w.parameters() for w in workers], strict=True):
            p.grad = p.detach() - torch.stack(list(theirs)).detach().mean(0)
        outer.step()
    expected = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    torch.testing.assert_close(sim.run(None).x_P, expected, rtol=1e-5, atol=1e-5)


def test_the_recipe_in_the_docstring_is_an_experiment():
    recipe = rs.rules.DiLoCo.__doc__.split("code::\n\n")[1].split("\n\n")[0]
    lines = "\n".join(line.removeprefix(" " * 8) for line in recipe.splitlines())
    rest = "data: {name: Digits}\npartition: {name: IID, clients: 8}\nmodel: {name: MLP}\n"
    sim = rs.Simulation.from_yaml(rest + lines)
    assert sim.rule == rs.rules.DiLoCo(lr=0.7, momentum=0.9)
    assert (sim.local.steps, sim.local.keep_state, sim.local.optimizer.beta2) == (500, True, 0.95)


def test_bits_are_one_model_each_way_per_worker():
    result = digits(rule=rs.rules.DiLoCo(), rounds=3).run(None)
    P = result.x_P.numel()
    assert result.metrics["bits_up"].iloc[-1] == result.metrics["bits_down"].iloc[-1] == 3 * 8 * 32 * P


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"momentum": 1.0}, r"DiLoCo\.momentum must be less than 1"),
        ({"lr": -0.7}, r"DiLoCo\.lr must be greater than 0"),
    ],
)
def test_bad_numbers_are_refused(fields, words):
    with pytest.raises(rs.ConfigError, match=words):
        rs.rules.DiLoCo(**fields)
