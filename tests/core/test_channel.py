"""The channel: rows that leave a client go through the uplink, what the server sends through the downlink, counted."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

import raysim as rs
from raysim.core.channel import Message
from raysim.core.interfaces import Rule
from raysim.core.sending import hostile_ids
from raysim.core.transforms import Attack, Transform
from raysim.runtime.coordinator import Coordinator
from tests.experiments import digits


@dataclass(frozen=True)
class Times(rs.compressors.Compressor):
    """Multiplies, and says that it took so many bits."""

    factor: float = 1.0
    bits: float = 7.0

    def apply(self, rows_CP, sender):
        return rows_CP.mul_(self.factor), self.bits


@dataclass(frozen=True)
class Plus(rs.privacy.Privacy):
    """Adds, and leaves the bits alone."""

    amount: float = 1.0

    def apply(self, rows_CP, sender):
        return rows_CP.add_(self.amount), None


def clients_of(round=0, server=None, **changes):
    coordinator = Coordinator(digits(**changes), None)
    first = coordinator._prepare()
    clients = coordinator._clients(server or first)
    return clients, server or first


def ids(cohort, x_P):
    """Each client's number, all along the row."""
    return torch.from_numpy(cohort.ids_C).float()[:, None].repeat(1, len(x_P))


def own(cohort, x_P):
    """Rows that clients keep, handed out as they are."""
    return cohort.state.rows("mine", torch.ones_like(x_P))


def two(cohort, x_P):
    row_CP = ids(cohort, x_P)
    return row_CP, row_CP, torch.ones(len(cohort), 3)


def test_transforms_apply_in_order_and_the_last_says_the_bits():
    clients, server = clients_of(uplink=(Plus(1.0), Times(2.0, 7.0)))
    rows_CP = clients.rows(ids, server.x_P)
    np.testing.assert_allclose(rows_CP[:, 0], (clients.ids + 1) * 2)
    assert clients.bits_up == 7 * clients.number
    clients, server = clients_of(uplink=(Times(2.0, 7.0), Times(1.0, 9.0)))
    clients.mean(ids, server.x_P)
    clients.sum(ids, server.x_P)
    assert clients.bits_up == 2 * 9 * clients.number
    assert clients.measured()["message_bits"] == pytest.approx(2 * 9)


def test_without_bits_of_its_own_a_row_is_sent_in_full():
    clients, server = clients_of(uplink=(Plus(1.0),))
    clients.mean(ids, server.x_P)
    assert clients.bits_up == 32 * len(server.x_P) * clients.number


def test_measurements_see_the_truth_and_are_free():
    clients, server = clients_of(uplink=(Plus(1.0),))
    plain = clients.mean(ids, server.x_P, uniform=True, measure=True)
    assert plain[0] == pytest.approx(clients.ids.mean(), rel=1e-5)
    assert clients.bits_up == 0
    assert clients.run(ids, server.x_P, look=True)[0] == pytest.approx(clients.ids.mean(), rel=1e-5)
    assert clients.bits_up == 0


def test_every_part_as_long_as_the_model_is_transformed_by_itself():
    clients, server = clients_of(uplink=(Times(2.0, 7.0),))
    a, b, c = clients.rows(two, server.x_P)
    np.testing.assert_allclose(a[:, 0], clients.ids * 2)
    np.testing.assert_allclose(b[:, 0], clients.ids * 2)
    assert (c == 1).all()
    assert clients.bits_up == (7 + 7 + 3 * 32) * clients.number


def test_rows_that_clients_keep_are_not_written():
    clients, server = clients_of(uplink=(Times(5.0),))
    assert (clients.mean(own, server.x_P) - 5).abs().max() < 1e-5
    assert (clients.mean(own, server.x_P, measure=True) - 1).abs().max() < 1e-5


def start_itself(cohort, x_P):
    return x_P.expand(len(cohort), -1)


def test_what_the_server_sent_is_not_written():
    clients, server = clients_of(uplink=(Times(5.0),))
    before = server.x_P.clone()
    clients.mean(start_itself, server.x_P)
    assert torch.equal(server.x_P, before)


def test_a_rules_own_compressor_comes_last():
    clients, server = clients_of(uplink=(Plus(1.0),))
    row_P = clients.sum(ids, server.x_P, compressor=Times(10.0, 3.0))
    assert row_P[0] == pytest.approx(10 * (clients.ids + 1).sum())
    assert clients.bits_up == 3 * clients.number


def test_a_message_counts_its_bits_for_every_client():
    clients, server = clients_of()
    for _ in range(2):
        clients.mean(ids, Message(server.x_P, 5))
    assert clients.bits_down == 5 * 30


@dataclass(frozen=True)
class Receives(Rule):
    """Looks at what clients received."""

    def round(self, clients, server):
        got_P = clients.mean(start_itself, server.x_P, uniform=True)
        again_P = clients.mean(start_itself, server.x_P, uniform=True)
        assert torch.equal(got_P, again_P)
        return server.at(server.x_P + torch.linspace(-1, 1, len(server.x_P)), got=got_P)


def test_downlink_copies_follow_by_compressed_differences():
    compressor = rs.compressors.TopK(fraction=0.1)
    coordinator = Coordinator(digits(rule=Receives(), downlink=compressor), None)
    server = coordinator._prepare()
    P = len(server.x_P)
    copy_P, k, bits = server.x_P.clone(), round(0.1 * P), 0
    for number in range(4):
        clients = coordinator._clients(server)
        x_P = server.x_P
        server = clients.settled(coordinator.simulation.rule.round(clients, server))
        server = type(server)(server.x_P, number + 1, server.state)
        if number:
            change = (x_P - copy_P).numpy()
            keep = np.argsort(-np.abs(change), kind="stable")[:k]
            copy_P[keep] += torch.from_numpy(change)[keep]
        torch.testing.assert_close(server.state["got"], copy_P, rtol=1e-5, atol=1e-6)
        bits = 30 * (32 * P if number == 0 else k * (32 + int(np.ceil(np.log2(P)))))
        assert clients.bits_down == bits


def test_hostile_clients_are_drawn_once():
    chosen = hostile_ids(0.3, 50, 7)
    assert len(chosen) == 15
    assert len(set(chosen)) == 15
    assert not np.array_equal(chosen, hostile_ids(0.3, 50, 8))
    assert hostile_ids((3, 1, 3), 50, 0).tolist() == [1, 3]
    assert len(hostile_ids(0.0, 50, 0)) == 0


@dataclass(frozen=True)
class Counts(rs.privacy.Privacy):
    """Keeps a number at the server, tells it to clients, adds it to what is received."""

    def told(self, desk):
        return {"rounds": desk.state.get("rounds", torch.zeros(1))}

    def apply(self, rows_CP, sender):
        return rows_CP.mul_(0).add_(sender.known["rounds"]), None

    def received(self, row_P, share, desk):
        desk.note("share", share)
        return row_P + 100

    def settle(self, desk):
        desk.state["rounds"] = desk.state.get("rounds", torch.zeros(1)) + 1


@dataclass(frozen=True)
class Shown(Rule):
    """Keeps what it received."""

    def round(self, clients, server):
        return server.at(server.x_P, got=clients.mean(ids, server.x_P))


def test_a_transforms_state_at_the_server_lasts():
    coordinator = Coordinator(digits(rule=Shown(), uplink=(Counts(),)), None)
    server = coordinator._prepare()
    for number in range(3):
        clients = coordinator._clients(server)
        server = clients.settled(coordinator.simulation.rule.round(clients, server))
        server = type(server)(server.x_P, number + 1, server.state)
        torch.testing.assert_close(server.state["got"][0], torch.tensor(100.0 + number))
        assert clients.measured()["share"] == pytest.approx(clients.weights.max() / clients.weights.sum())
        assert clients.bits_down == 32 * (len(server.x_P) + 1) * clients.number
    assert server.state["uplink.0.rounds"] == 3


@dataclass(frozen=True)
class Guard(Plus):
    covers = True


def test_what_would_bypass_a_guard_is_refused():
    clients, server = clients_of(uplink=(Guard(),))
    with pytest.raises(
        rs.ConfigError, match=r"Guard protects rows as long as the model, but clients also send \(3,\)"
    ):
        clients.mean(two, server.x_P)


@pytest.mark.parametrize("field", ["uplink", "downlink"])
def test_rules_with_models_of_their_own_are_refused(field):
    value = Times() if field == "downlink" else (Times(),)
    with pytest.raises(rs.ConfigError, match=f"Simulation.{field} is for updates and gradients"):
        digits(rule=rs.rules.EASGD(), **{field: value})


def test_a_rule_that_answers_in_bits_of_its_own_has_no_downlink():
    vote = rs.rules.MajorityVote(vote=rs.compressors.Sign(scale="none"), lr=0.01)
    local = rs.Local(optimizer=rs.optimizers.SGD(lr=0.1), steps=1, batch_size=8)
    with pytest.raises(rs.ConfigError, match="MajorityVote answers in bits of its own"):
        digits(rule=vote, local=local, downlink=Times())


def test_what_is_no_transform_is_refused():
    with pytest.raises(rs.ConfigError, match=r"Simulation.uplink must be"):
        digits(uplink=(rs.optimizers.SGD(lr=0.1),))
    assert issubclass(Attack, Transform)
