"""Clipping against naive loops, and a length that follows a quantile."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

import raysim as rs
from raysim.core import streams
from raysim.core.channel import Desk
from raysim.core.cohorts import cohort_ids
from raysim.core.interfaces import Rule
from raysim.core.sending import Sender
from tests.experiments import digits, same

AdaptiveClip, Clip = rs.privacy.AdaptiveClip, rs.privacy.Clip


def sender(C, known=None):
    reports = {}
    made = Sender(
        np.arange(C),
        streams.key(0, torch.arange(C)),
        lambda name, fill_P: pytest.fail("clipping keeps nothing"),
        [],
        known=known,
        report=reports.__setitem__,
    )
    return made, reports


def rows(C=24, P=50, seed=0):
    return streams.normal(streams.key(seed, "rows"), C, P) * torch.linspace(0.01, 2, C)[:, None]


@pytest.mark.parametrize("norm", [1e-3, 1.0, 3.0, 1e6])
@pytest.mark.parametrize("block", [1, 3, 8, 24])
def test_clip_equals_naive_in_any_block(norm, block):
    x_CP = rows()
    x_CP[2] = 0
    whole = Clip(norm=norm).apply(x_CP.clone(), sender(24)[0])[0]
    pieces = [Clip(norm=norm).apply(p.clone(), sender(len(p))[0])[0] for p in x_CP.split(block)]
    assert torch.equal(torch.cat(pieces), whole)
    for c in range(24):
        x = x_CP[c].double().numpy()
        length = np.sqrt((x**2).sum())
        expected = x if length <= norm else x * norm / length
        np.testing.assert_allclose(whole[c], expected, rtol=1e-5, atol=1e-9)


def test_clip_reports_who_was_longer_and_leaves_the_bits_alone():
    x_CP, (made, reports) = rows(), sender(24)
    _, bits = Clip(norm=5.0).apply(x_CP.clone(), made)
    assert bits is None
    assert reports["clipped"].tolist() == [float(x.norm() > 5.0) for x in x_CP]
    assert 0 < reports["clipped"].sum() < 24


class Server:
    """A desk of a transform, round after round."""

    def __init__(self, clients):
        self.state, self.clients, self.round = {}, clients, 0

    def play(self, clip, lengths_C):
        """One round with rows of these lengths; returns S and the desk's notes."""
        notes, C = {}, len(lengths_C)
        key = streams.key(0, self.round, "uplink", 0)
        reports = {}
        desk = Desk(self.round, C, self.clients, self.state, reports, notes.__setitem__, key)
        made, told = sender(C, clip.told(desk))
        x_CP = torch.zeros(C, 4)
        x_CP[:, 1] = lengths_C
        clip.apply(x_CP, made)
        reports |= {name: value.numpy() for name, value in told.items()}
        clip.settle(desk)
        self.round += 1
        return notes["clip_norm"], x_CP.norm(dim=1)


@pytest.mark.parametrize(
    ("quantile", "rate", "initial"), [(0.5, 0.2, 0.1), (0.3, 1.0, 500.0), (0.9, 0.05, 3.0)]
)
def test_adaptive_clip_equals_the_naive_recursion(quantile, rate, initial):
    clip, server = AdaptiveClip(initial=initial, quantile=quantile, rate=rate), Server(100)
    lengths = np.exp(np.asarray(streams.normal(streams.key(3, "lengths"), 60, 20)))
    S = initial
    for number in range(60):
        used, clipped = server.play(clip, torch.from_numpy(lengths[number]))
        assert used == pytest.approx(S, rel=1e-5)
        np.testing.assert_allclose(clipped, np.minimum(lengths[number], S), rtol=1e-5)
        b = sum(length <= S for length in lengths[number]) / 20
        S = S * np.exp(-rate * (b - quantile))


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("initial", [1e-3, 1e4])
def test_adaptive_clip_finds_the_quantile(quantile, initial):
    """Lengths 1..100: the share of rows that are at most S long is the quantile when S is 100 times that."""
    clip, server = AdaptiveClip(initial=initial, quantile=quantile, rate=0.2), Server(100)
    lengths_C = torch.arange(1.0, 101.0)
    ends = [server.play(clip, lengths_C)[0] for _ in range(1000)][-50:]
    assert 100 * quantile * 0.97 - 1 <= min(ends) <= max(ends) <= 100 * quantile * 1.03 + 1


def test_noise_on_the_number_is_of_the_size_asked_for_and_new_every_round():
    """S starts so large that all rows are short: log S then falls by rate (1 + noise / cohort - quantile)."""
    clip, server = AdaptiveClip(initial=1e30, rate=0.01, noise=5.0), Server(40)
    used = np.log([server.play(clip, torch.ones(40))[0] for _ in range(801)])
    noise = (-np.diff(used) / 0.01 - 0.5) * 40
    assert abs(noise.mean()) < 5 * 5.0 / np.sqrt(800)
    assert noise.std() == pytest.approx(5.0, rel=0.15)


@dataclass(frozen=True)
class Known(Rule):
    """Clients send rows as long as their number plus one; larger clients have larger weights."""

    def round(self, clients, server):
        clients.mean(numbered, server.x_P)
        return server.at(server.x_P)


def numbered(cohort, x_P):
    rows_CP = torch.zeros(len(cohort), len(x_P))
    rows_CP[:, 3] = torch.from_numpy(cohort.ids_C).float() + 1
    return rows_CP


@pytest.mark.parametrize("block", [1, 3, 8])
def test_in_an_experiment_all_clients_count_the_same(block):
    fields = {"rule": Known(), "execution": rs.Execution(block=block), "rounds": 12}
    clip = AdaptiveClip(initial=1.0, rate=0.5)
    result = digits(uplink=(clip,), **fields).run(None)
    S, used = 1.0, []
    for number in range(12):
        lengths = cohort_ids(0, number, 30, 8) + 1
        used.append(S)
        S *= np.exp(-0.5 * ((lengths <= S).mean() - 0.5))
    np.testing.assert_allclose(result.metrics["clip_norm"].iloc[1:], used, rtol=1e-5)
    plain = digits(**fields).run(None).metrics
    assert (result.metrics["bits_up"] == plain["bits_up"]).all()
    assert result.metrics["bits_down"].iloc[-1] == plain["bits_down"].iloc[-1] + 12 * 8 * 32


def test_stop_and_resume_equals_one_run(tmp_path):
    sim = digits(uplink=(AdaptiveClip(initial=0.1, noise=1.0),), rounds=5)
    sim.replaced(rounds=2).run(tmp_path / "run")
    assert same(sim.run(None), rs.resume(tmp_path / "run", sim))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Clip(norm=0.0), "Clip.norm must be greater than 0"),
        (lambda: AdaptiveClip(initial=-1.0), "AdaptiveClip.initial must be greater than 0"),
        (lambda: AdaptiveClip(initial=1.0, quantile=1.0), "AdaptiveClip.quantile must be less than 1"),
        (lambda: AdaptiveClip(initial=1.0, rate=0.0), "AdaptiveClip.rate must be greater than 0"),
        (
            lambda: AdaptiveClip(initial=1.0, noise=-1.0),
            "AdaptiveClip.noise must be greater than or equal to 0",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(rs.ConfigError, match=words):
        make()
