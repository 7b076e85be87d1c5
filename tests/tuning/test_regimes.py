"""The probe of scaling: what it makes of known laws, and what it says."""

import math

import numpy as np
import pytest

from tests.tuning.fakes import EXPERIMENT, laws, parabola
from tuning.regimes import Regimes
from tuning.regimes.theory import theory


def said(monkeypatch, needed, *overrides):
    """The probe of a law, and its words."""
    laws(monkeypatch, needed)
    found = Regimes.from_yaml(EXPERIMENT, list(overrides)).run()
    return found, found.text()


def test_known_laws_are_found(monkeypatch):
    """Iterations 30 (1 + 8/m), the best step size 0.1 m up to 16: as measured, m* = 9, and so it is said."""
    best = lambda m: 0.1 * min(m, 16)
    laws(
        monkeypatch,
        lambda s: parabola(s.local.optimizer.lr, best(s.local.batch_size), 30 * (1 + 8 / s.local.batch_size)),
    )
    found = Regimes.from_yaml(EXPERIMENT, ["regimes.steps.log_grid=[0.5,2,13]"]).run()
    table = found.table()
    assert list(table["batch_size"]) == [1, 2, 4, 8, 16, 32, 64]
    assert table["lr"].to_numpy() == pytest.approx([best(m) for m in table["batch_size"]], rel=0.07)
    assert table["iterations"].to_numpy() == pytest.approx(
        30 * (1 + 8 / table["batch_size"].to_numpy()), rel=0.01
    )
    assert table["examples"].to_numpy() == pytest.approx(table["iterations"] * table["batch_size"])
    assert table["bits_up"].to_numpy() == pytest.approx(64 * table["rounds"])
    assert table["iterations_sd"].to_numpy() == pytest.approx(np.zeros(7), abs=1e-9)
    (finding,) = found.findings.values()
    assert finding.fit.critical == pytest.approx([9.0], rel=0.05)
    text = found.text()
    assert (
        "Use batch 16 with step size 1.5: up to here doubling the batch takes 0.64 times the iterations"
        in text
    )
    assert "m* = 9" in text
    assert "saturated" in text
    assert "law" in str(found.printed().title)
    assert len(found.figure().axes) == 2


def test_a_round_goes_through_as_many_examples(monkeypatch):
    laws(monkeypatch, lambda s: 24.0 if s.local.optimizer.lr < 10 else math.nan)
    found = Regimes.from_yaml(EXPERIMENT, ["regimes.examples_per_round=32"]).run()
    (finding,) = found.findings.values()
    steps = [found.at(finding.simulation, None, m, 0.1, 0, 3).local.steps for m in (1, 4, 32, 64)]
    assert steps == [32, 8, 1, 1]
    assert found.table()["iterations"].to_numpy() == pytest.approx([24 * k for k in (32, 16, 8, 4, 2, 1, 1)])


def test_along_clients_and_local_steps(monkeypatch):
    """Clients: the partition changes; local steps: the regimes are those of rounds."""
    laws(monkeypatch, lambda s: parabola(s.local.optimizer.lr, 0.1, 10 * (1 + 3 / s.partition.clients)))
    clients = Regimes.from_yaml(EXPERIMENT, ["regimes.along=clients", "local.steps=5"]).run()
    assert clients.findings["law"].fit.critical == pytest.approx([4.0], rel=0.1)
    assert clients.table()["iterations"].to_numpy() == pytest.approx(5 * clients.table()["rounds"])
    assert "Use 4 clients" in clients.text()
    laws(monkeypatch, lambda s: parabola(s.local.optimizer.lr, 0.1, 10 * (1 + 3 / s.local.steps)))
    local = Regimes.from_yaml(EXPERIMENT, ["regimes.along=local_steps"]).run()
    assert local.findings["law"].fit.critical == pytest.approx([4.0], rel=0.1)
    assert "Use 4 local steps" in local.text()
    assert local.findings["law"].theory is None
    assert local.figure().axes[1].get_xlabel() == "local steps"


def test_costs_of_another_shape_have_no_regimes(monkeypatch):
    """Falling, then rising again: no curve with a critical size, and so none is drawn or recommended."""
    laws(monkeypatch, lambda s: 10 * (8 / s.local.steps + s.local.steps / 8))
    found = Regimes.from_yaml(EXPERIMENT, ["regimes.along=local_steps"]).run()
    assert not found.findings["law"].fit.follows
    assert found.text().startswith("No regimes: the rounds do not follow a curve with a critical size")
    assert "From 1 to 64 local steps the rounds go from 81 to 81" in found.text()
    labels = [text.get_text() for text in found.figure().legends[0].get_texts()]
    assert labels == ["measured, range of seeds"]


def test_a_target_that_is_never_reached_is_said_and_drawn(monkeypatch):
    laws(monkeypatch, lambda s: math.inf)
    found = Regimes.from_yaml(EXPERIMENT, ["regimes.max_rounds=40"]).run()
    assert found.table()["iterations"].isna().all()
    assert "No step size reached the target" in found.text()
    assert found.figure().axes
    found.printed()


def test_some_values_that_reach_the_target_are_enough(monkeypatch):
    laws(monkeypatch, lambda s: math.inf if s.local.batch_size < 4 else 50 * (1 + 15 / s.local.batch_size))
    found = Regimes.from_yaml(EXPERIMENT, ["regimes.max_rounds=300"]).run()
    assert found.table()["iterations"].isna().tolist() == [True] * 2 + [False] * 5
    assert found.findings["law"].fit.critical == pytest.approx([16.0], rel=0.05)


def test_mass_takes_its_coefficients_from_theory_or_keeps_its_own(monkeypatch):
    text = EXPERIMENT.replace(
        "name: SGD, lr: 0.1}", "name: MaSS, lr: 0.1, alpha: 0.5, kappa: 2}, keep_state: true"
    )
    laws(monkeypatch, lambda s: 10.0)
    found = Regimes.from_yaml(text)
    simulation = found.variants["law"]
    known = theory(simulation, "batch_size")
    best = known.constants.mass(4)
    made = found.at(simulation, known, 4, 0.3, 7, 9)
    assert (made.local.optimizer.alpha, made.local.optimizer.kappa) == (best.alpha, best.kappa)
    assert (made.local.optimizer.lr, made.seed, made.rounds, made.local.batch_size) == (0.3, 7, 9, 4)
    fixed = Regimes.from_yaml(text, ["regimes.momentum=fixed"])
    assert fixed.at(simulation, known, 4, 0.3, 7, 9).local.optimizer.alpha == 0.5
    assert len(found.run().findings["law"].fit.critical) == 2


# ---- what is said -----------------------------------------------------------------------------------------------


def test_the_last_value_that_its_predecessor_gains_from_is_used(monkeypatch):
    """With gaps between values a critical size lies between two of them: what counts is what the next one saves."""
    law = lambda star: lambda s: 30 * (1 + (star - 1) / s.local.batch_size)
    _, text = said(monkeypatch, law(3.1), "regimes.values=[1,4,16,64]")
    assert text.startswith("Use batch 4 ")
    _, text = said(monkeypatch, law(5.0), "regimes.values=[4,16,64]")
    assert "Use batch 4 " in text
    assert "the next value tried, 16, is already beyond linear scaling (60 iterations)" in text
    _, text = said(monkeypatch, law(1.2), "regimes.values=[1,4,16,64]")
    assert "Use batch 1 " in text
    assert "doubling the batch saves little from the start" in text


def test_too_few_values_are_said(monkeypatch):
    few = lambda least: lambda s: math.inf if s.local.batch_size < least else 50.0
    _, text = said(monkeypatch, few(32), "regimes.max_rounds=300")
    assert text.startswith("No regimes: too few values for a fit, 2 reached the target and 3 are needed.")
    assert "Use batch" not in text
    assert "From batch 32 to 64 the iterations go from 50 to 50" in text
    found, text = said(monkeypatch, few(64), "regimes.max_rounds=300")
    assert "Only batch 64 did, in 50 iterations" in text
    assert found.figure().axes


def test_one_seed_that_scatters_is_told_from_another_curve(monkeypatch):
    """What theory says stands there all the same."""
    _, text = said(monkeypatch, lambda s: 30.0 + 60 * (s.local.batch_size in (4, 32)), "regimes.seeds=1")
    assert text.startswith(
        "No regimes: with one seed the measurements scatter too much, or they follow another curve."
    )
    assert "Theory, from the training data's constants" in text


def test_grammar_of_one(monkeypatch):
    flat = lambda s: 40.0
    _, text = said(monkeypatch, flat, "regimes.along=clients")
    assert "Use 1 client with" in text
    _, text = said(monkeypatch, flat, "regimes.along=local_steps")
    assert "Use 1 local step with" in text


def test_sizes_that_are_not_told_apart_are_one_in_words(monkeypatch):
    wave = lambda s: 40 * (1 + 8 / s.local.batch_size) * (1.1 if s.local.batch_size in (2, 16) else 1)
    found, text = said(monkeypatch, wave, "regimes.sizes=2")
    assert not found.findings["law"].fit.apart
    assert "about 9" in text or "about 1" in text
    assert "one or two, the measurements do not tell." in text
    assert "m1*" not in text


def test_a_step_size_at_the_end_of_its_search_is_marked(monkeypatch):
    found, text = said(monkeypatch, lambda s: 1500 / s.local.optimizer.lr**0.3)
    assert set(found.findings["law"].edges.values()) == {"high"}
    assert "the best step size is the last that was tried on its side" in text
    assert "≥ " in str(list(found.printed().columns[1].cells))


def test_full_batches_count_the_examples_of_a_share(monkeypatch):
    changes = ["regimes.along=local_steps", "local.batch_size=null", "partition.clients=4"]
    found, _ = said(monkeypatch, lambda s: 10 * (1 + 3 / s.local.steps), *changes)
    table = found.table()
    assert table["examples"].to_numpy() == pytest.approx(
        50 * table["iterations"]
    )  # curve(): one update a round


def test_why_there_is_no_noise_scale_is_said(monkeypatch):
    needed = lambda s: 50.0 if s.local.batch_size == 200 else math.inf
    changes = ["regimes.values=[50,100,200]", "regimes.noise=true", "regimes.max_rounds=300"]
    found, text = said(monkeypatch, needed, *changes)
    assert not len(found.findings["law"].noise)
    assert "No gradient noise scale: " in text
    assert "no client has more examples than a batch" in text
