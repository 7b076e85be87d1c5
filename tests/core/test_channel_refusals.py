"""What a channel refuses or warns of, and what clients keep of a message: that which arrived."""

import pytest
import torch

import raysim as rs
from raysim.core.channel import Channel
from tests.experiments import digits

c, F, P = rs.compressors, rs.compressors.Feedback, rs.privacy
TOPK = c.TopK(fraction=0.1)
UNIFORM = rs.rules.Averaging(weighting="uniform")


@pytest.mark.parametrize("memory", [F(TOPK), c.MomentumCorrection(TOPK)])
def test_a_difference_needs_no_memory(memory):
    with pytest.raises(rs.ConfigError, match=f"{type(memory).__name__} would add it again"):
        digits(downlink=memory)
    rule = rs.rules.ChocoSGD(topology=rs.topologies.Ring(), compressor=memory)
    with pytest.raises(rs.ConfigError, match=f"{type(memory).__name__} would add it again"):
        digits(rule=rule, cohort=None)


def test_what_would_change_a_packed_message_is_refused():
    noise = P.GaussianMechanism(1.0, P.Clip(1.0), 1e-5, at="client")
    assert digits(uplink=(TOPK, P.Clip(norm=1.0))).uplink
    for after in (noise, rs.attacks.Noise(hostile=1.0, std=1.0)):
        with pytest.raises(rs.ConfigError, match="Put attacks first, then privacy, then compressors"):
            digits(uplink=(TOPK, after))


def test_probes_would_see_what_never_happened():
    with pytest.raises(rs.ConfigError, match="Leave out one of them"):
        digits(downlink=TOPK, probes=(rs.probes.Drift(),))


def test_a_server_that_asks_for_losses_is_refused():
    with pytest.raises(rs.ConfigError, match=r"Averaging.server is Armijo, which needs the loss"):
        digits(rule=rs.rules.Averaging(server=rs.optimizers.Armijo(lr=1.0)))


def test_votes_and_noise_at_the_server():
    noise = P.GaussianMechanism(1.0, P.Clip(1.0), 1e-5)
    local = rs.Local(optimizer=rs.optimizers.SGD(lr=0.1), steps=1)
    with pytest.raises(rs.ConfigError, match="MajorityVote compresses what clients send"):
        digits(rule=rs.rules.MajorityVote(vote=c.Sign(scale="none"), lr=0.1), local=local, uplink=(noise,))


def test_flipped_labels_suit_every_rule():
    result = digits(rule=rs.rules.EASGD(), uplink=(rs.attacks.LabelFlip(hostile=0.3),)).run(None)
    assert not torch.equal(result.x_P, digits(rule=rs.rules.EASGD()).run(None).x_P)


def test_hostile_counts_and_nobody():
    with pytest.raises(rs.ConfigError, match=r"a list of clients such as \[1\]"):
        rs.attacks.SignFlip(hostile=1)
    with pytest.raises(rs.ConfigError, match="rounds to nobody"):
        digits(uplink=(rs.attacks.SignFlip(hostile=0.01),))


def test_a_model_of_one_number_is_pointed_out():
    assert "acts on both" in Channel(uplink=(TOPK,), shapes=(torch.Size([1, 1]),)).cautions()[0]
    assert Channel(shapes=(torch.Size([1, 1]),)).cautions() == []


SHAPES = (torch.Size([16, 64]), torch.Size([16]))


def test_cautions_name_what_may_diverge():
    for fine in (TOPK, c.Natural(), c.Sign(), c.RandomK(fraction=0.1, scaled=False), c.QSGD(levels=127)):
        assert Channel(uplink=(F(fine),), shapes=SHAPES).cautions() == []
        assert Channel(downlink=fine, shapes=SHAPES).cautions() == []
    wild = c.RandomK(fraction=0.1)
    assert "Feedback adds what is left out" in Channel(uplink=(F(wild),), shapes=SHAPES).cautions()[0]
    assert "Simulation.downlink adds" in Channel(downlink=wild, shapes=SHAPES).cautions()[0]
    assert "makes no promise" in Channel(downlink=c.Sign(scale="none"), shapes=SHAPES).cautions()[0]
    assert Channel(uplink=(wild,), shapes=SHAPES).cautions() == []


def test_one_transform_needs_no_list():
    text = digits(uplink=(TOPK,)).to_yaml()
    tree = text.replace(
        "uplink:\n- name: TopK\n  fraction: 0.1\n  per_layer: false\n",
        "uplink: {name: TopK, fraction: 0.1}\n",
    )
    assert tree != text
    assert rs.Simulation.from_yaml(tree).uplink == (TOPK,)
    assert rs.Simulation.from_yaml(tree.replace("{name: TopK, fraction: 0.1}", "")).uplink == ()
    assert rs.Simulation.from_yaml(text, ["uplink.0.fraction=0.2"]).uplink == (c.TopK(fraction=0.2),)
    with pytest.raises(rs.ConfigError, match="leads into a list of 1"):
        rs.Simulation.from_yaml(text, ["uplink.1.fraction=0.2"])
    with pytest.raises(rs.ConfigError, match=r"Simulation.uplink must be a list"):
        digits(uplink=TOPK)


def test_a_run_is_resumed_with_the_channel_it_had(tmp_path):
    digits(uplink=(F(TOPK),), rounds=2).run(tmp_path / "run")
    with pytest.raises(rs.ConfigError, match="was made with another uplink"):
        rs.resume(tmp_path / "run", digits(uplink=(TOPK,), rounds=4))


@pytest.mark.parametrize("rule", [rs.rules.Scaffold(), rs.rules.FedDyn(alpha=0.5, weighting="uniform")])
def test_control_variates_stay_the_servers(rule):
    """Under QSGD the optimum of an unlike quadratic is still found: what clients keep is what the server heard of."""
    sim = rs.Simulation(
        data=rs.data.Quadratic(clients=6, dimension=8, heterogeneity=1.0),
        partition=rs.partitions.ByGroup(),
        model=rs.models.Linear(bias=False),
        local=rs.Local(optimizer=rs.optimizers.SGD(lr=0.1), steps=5),
        rule=rule,
        uplink=(c.QSGD(levels=15, bucket=None),),
        rounds=1500,
        evaluate_every=1500,
    )
    optimum = torch.from_numpy(sim.data.load().optimum)
    assert (sim.run(None).x_P - optimum).norm() < 0.02
