"""Trials that train as one stack end where their separate runs end."""

import numpy as np
import pytest
import torch

import raysim as rs
from raysim.optimizers import SGD, Adam, AdamW, Armijo, Cosine, InverseSqrt, MaSS, PolyakStep
from raysim.rules import (
    EASGD,
    Averaging,
    ChocoSGD,
    DiLoCo,
    Downpour,
    ExactDiffusion,
    FedDyn,
    FedGA,
    FedProx,
    Gossip,
    GossipAGA,
    GradAlign,
    Leader,
    MajorityVote,
    MimeLite,
    Robust,
    Scaffold,
    SlowMo,
)
from tests.tuning.stacks import agree, every, experiment, rates, rules, together
from tuning.population import Population, population

OPTIMIZERS = {
    "step sizes": every(rates()),
    "one step": every(rates(), steps=1),
    "full batches": every(rates(), steps=3, batch_size=None),
    "weight decay": every([SGD(lr=0.1, weight_decay=w) for w in (0.0, 0.01, 0.3)]),
    "both": every([SGD(lr=lr, weight_decay=w) for lr, w in ((0.1, 0.0), (0.3, 0.1))]),
    "momentum": every([SGD(lr=0.1, momentum=m) for m in (0.0, 0.5, 0.9)]),
    "kept momentum": every([SGD(lr=lr, momentum=m) for lr, m in ((0.1, 0.5), (0.05, 0.9))], keep_state=True),
    "nesterov": every([SGD(lr=0.05, momentum=m, nesterov=True) for m in (0.3, 0.9)], keep_state=True),
    "adam": every([Adam(lr=lr, beta1=b, eps=0.01) for lr, b in ((0.01, 0.9), (0.03, 0.5))]),
    "kept adam": every(
        [AdamW(lr=0.01, beta2=b, weight_decay=w) for b, w in ((0.9, 0.1), (0.99, 0.0))], keep_state=True
    ),
    "mass": every([MaSS(lr=lr, alpha=a, kappa=2.0) for lr, a in ((0.1, 0.2), (0.05, 0.1))]),
    "searches": every([Armijo(lr=lr, sigma=s) for lr, s in ((1.0, 0.1), (0.5, 0.3))]),
    "backtracking": every([Armijo(lr=1.0, backtrack=b) for b in (0.5, 0.8)]),
    "polyak": every([PolyakStep(lr=1.0, minimum=m, growth=g) for m, g in ((0.0, 1.5), (0.1, 2.0))]),
    "schedules": every([SGD(lr=0.1), SGD(lr=Cosine(lr=0.3, rounds=20)), SGD(lr=InverseSqrt(lr=0.2))]),
    "vmap": every(rates(momentum=0.5), execution=rs.Execution(form="stacked")),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_local_numbers(name):
    together(OPTIMIZERS[name])


ONE = {"steps": 1, "cohort": None}
RING = rs.topologies.Ring()
RULES = {
    "fedavgm": rules(*(Averaging(server=SGD(lr=lr, momentum=m)) for lr, m in ((1.0, 0.0), (0.5, 0.9)))),
    "fedadam": rules(*(Averaging(server=Adam(lr=lr, eps=0.01)) for lr in (0.01, 0.1))),
    "fedprox": rules(FedProx(mu=0.0), FedProx(mu=0.1), FedProx(mu=1.0)),
    "fedprox and steps": [experiment(SGD(lr=lr), FedProx(mu=m)) for lr, m in ((0.1, 0.3), (0.3, 0.1))],
    "fedprox and momentum": [experiment(SGD(lr=0.1, momentum=0.5), FedProx(mu=m)) for m in (0.3, 0.1)],
    "fedprox and adam": [experiment(Adam(lr=0.02, eps=0.01), FedProx(mu=m)) for m in (0.3, 0.1)],
    "scaffold": every(rates(), rule=Scaffold()),
    "scaffold I": rules(*(Scaffold(option="I", server_lr=s) for s in (1.0, 0.5))),
    "feddyn": rules(FedDyn(alpha=0.05), FedDyn(alpha=0.5)),
    "feddyn, all alike": [
        experiment(SGD(lr=lr), FedDyn(a, "uniform")) for lr, a in ((0.1, 0.05), (0.2, 0.3))
    ],
    "slowmo": rules(SlowMo(beta=0.2), SlowMo(beta=0.6)),
    "diloco": rules(DiLoCo(lr=0.7), DiLoCo(lr=0.3)),
    "mime": every(rates(), rule=MimeLite(momentum=0.5)),
    "mime's momentum": rules(MimeLite(momentum=0.0), MimeLite(momentum=0.5)),
    "fedga": rules(FedGA(beta=0.0), FedGA(beta=0.1)),
    "gradalign": rules(GradAlign(beta=0.0), GradAlign(beta=0.3), **ONE),
    "robust": every(rates(), rule=Robust(rs.aggregators.Median())),
    "votes": rules(*(MajorityVote(rs.compressors.Sign(scale="none"), lr=lr) for lr in (0.01, 0.03)), **ONE),
    "downpour": every(rates(values=(0.01, 0.05)), rule=Downpour()),
    "elastic": rules(EASGD(beta=0.5, alpha=0.1), EASGD(beta=0.9, alpha=0.4)),
    "gossip": every(rates(momentum=0.5), rule=Gossip(topology=RING, period=3), cohort=None, keep_state=True),
    "gossip aga": every(rates(), rule=GossipAGA(topology=RING), cohort=None),
    "diffusion": every(rates(), rule=ExactDiffusion(topology=RING), **ONE),
    "choco": every(
        rates(), rule=ChocoSGD(RING, compressor=rs.compressors.RandomK(fraction=0.5, scaled=False)), **ONE
    ),
    "consensus": rules(
        *(ChocoSGD(RING, compressor=rs.compressors.TopK(fraction=0.5), consensus=c) for c in (0.3, 0.6)),
        **ONE,
    ),
    "leaders": every(rates(), rule=Leader(groups=2, global_pull=0.1), cohort=None),
    "leaders in the objective": rules(
        *(Leader(pull=p, groups=2, pull_at="objective") for p in (0.1, 0.5)), cohort=None
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_numbers_of_rules(name):
    together(RULES[name])


UPLINKS = {
    "memory": {"uplink": (rs.compressors.Feedback(rs.compressors.RandomK(fraction=0.3, scaled=False)),)},
    "noise": {"uplink": (rs.compressors.QSGD(levels=64),)},
    "clipped, flipped": {"uplink": (rs.attacks.SignFlip(hostile=0.3), rs.privacy.Clip(norm=0.5))},
    "down": {"downlink": rs.compressors.RandomK(fraction=0.5)},
}


@pytest.mark.parametrize("name", UPLINKS)
def test_channels(name):
    together(every(rates(), **UPLINKS[name]))


@pytest.mark.parametrize("rows", [1, 2, 5, 12])
def test_any_block_gives_the_same(rows, monkeypatch):
    monkeypatch.setattr(population, "MOST_ROWS", rows)
    together(every([SGD(lr=lr, momentum=0.5) for lr in (0.05, 0.1, 0.2, 0.3, 0.4)], rule=FedProx(mu=0.1)))


def test_a_network_that_is_no_chain():
    class Squared(torch.nn.Module):
        def forward(self, x):
            return x.square()

    model = rs.models.Custom(
        lambda: torch.nn.Sequential(torch.nn.Linear(5, 8), Squared(), torch.nn.Linear(8, 3))
    )
    together(every(rates(values=(0.02, 0.1)), model=model, rounds=10))


def test_targets_have_no_accuracy():
    rng = np.random.Generator(np.random.PCG64(1))
    x = rng.standard_normal((60, 5)).astype(np.float32)
    data = rs.data.Arrays(x_train=x, y_train=x[:, :2] ** 2, x_test=x[:20], y_test=x[:20, :2] ** 2)
    results = together(every(rates(), data=data, partition=rs.partitions.IID(clients=5)))
    assert "accuracy" not in results[0].metrics


# ---- divergence ------------------------------------------------------------------------------------------------


def test_who_diverges_leaves_the_others_untouched():
    wild = [SGD(lr=lr, momentum=0.5) for lr in (0.05, 1e30, 0.1, 1e12)]
    stacked = Population(every(wild, rule=Scaffold(option="I"), keep_state=True)).run()
    assert [r.status for r in stacked] == ["finished", "diverged", "finished", "diverged"]
    for result, optimizer in zip(stacked, wild, strict=True):
        agree(result, experiment(optimizer, Scaffold(option="I"), keep_state=True).run(None))
    calm = Population(every(wild[::2], rule=Scaffold(option="I"), keep_state=True)).run()
    for result, alone in zip(stacked[::2], calm, strict=True):
        torch.testing.assert_close(result.x_P, alone.x_P, rtol=1e-5, atol=1e-6)


def test_all_may_diverge():
    results = Population(every(rates(values=(1e30, 1e35)))).run()
    assert [r.status for r in results] == ["diverged", "diverged"]
    assert np.isnan(results[0].metrics["loss"].iloc[-1])


def test_memory_splits_a_population():
    simulations = every(rates(values=(0.05, 0.1, 0.2, 0.3, 0.4)), rule=Scaffold(), rounds=5)
    P = 5 * 8 + 8 + 8 * 3 + 3
    results = Population(simulations, memory=2 * 4 * P * (7 + 8)).run()
    for result, whole in zip(results, Population(simulations).run(), strict=True):
        agree(result, whole)


def test_seconds_are_shared_out():
    results = Population(every(rates())).run()
    assert len({r.seconds for r in results}) == 1
    assert 0 < results[0].seconds == results[0].metrics["seconds"].iloc[-1]
