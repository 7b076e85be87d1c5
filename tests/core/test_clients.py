"""The exchange calls: mean, sum, rows and run say the same about the same rows, and count what they send."""

import numpy as np
import pytest
import torch

import raysim as rs
from raysim.core import clients as module
from raysim.core.clients import Clients
from raysim.runtime.coordinator import Coordinator
from tests.experiments import digits


@pytest.fixture
def cohort():
    coordinator = Coordinator(digits(), None)
    server = coordinator._prepare()
    return Clients(coordinator.fleet, coordinator._plan(0), coordinator.P), server


def identity(block, x_P):
    """A row that tells whose it is."""
    return torch.from_numpy(block.ids_C).to(torch.float32)[:, None] * torch.ones(1, 3) + x_P[:3]


def visits(block):
    block.state.rows("visits", torch.zeros(1)).add_(1)


def seen(block):
    return block.state.rows("visits", torch.zeros(1)).clone(), identity(block, torch.zeros(3))


def test_mean_sum_and_rows_agree(cohort):
    clients, server = cohort
    rows_CP = clients.rows(identity, server.x_P)
    np.testing.assert_allclose(rows_CP[:, 0] - server.x_P[0], clients.ids, rtol=1e-5)
    weight = torch.from_numpy(clients.weights / clients.weights.sum()).float()
    torch.testing.assert_close(clients.mean(identity, server.x_P), weight @ rows_CP)
    torch.testing.assert_close(clients.mean(identity, server.x_P, uniform=True), rows_CP.mean(0))
    torch.testing.assert_close(clients.sum(identity, server.x_P), rows_CP.sum(0))


def test_run_changes_rows_and_sends_nothing(cohort):
    clients, _ = cohort
    clients.run(visits)
    clients.run(visits)
    assert clients.bits_up == clients.bits_down == 0
    times, whose = clients.rows(seen)
    assert (times == 2).all()
    assert whose[:, 0].tolist() == clients.ids.tolist()


def test_a_tensor_sent_twice_in_a_round_is_counted_once(cohort):
    clients, server = cohort
    for _ in range(2):
        clients.mean(identity, server.x_P)
    assert clients.bits_down == 32 * len(server.x_P) * clients.number
    assert clients.bits_up == 2 * 32 * 3 * clients.number


def test_rows_that_cannot_fit_are_refused(cohort, monkeypatch):
    clients, server = cohort
    monkeypatch.setattr(module, "ROWS_LIMIT", 1000)
    with pytest.raises(rs.ConfigError, match=r"Gathering the rows of 8 clients needs .* GB"):
        clients.rows(identity, server.x_P)
