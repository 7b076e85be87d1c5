"""The examples: every file loads, every variant runs, a rule from scratch prints its accuracy."""

import math
import runpy
from pathlib import Path

import pytest

import raysim as rs
from raysim import spec
from raysim.cli.common import SEVERAL, read
from raysim.core.plugin import ConfigError
from raysim.study import Study
from tuning import Regimes
from tuning.plan import Plan

EXAMPLES = Path(__file__).parent.parent / "examples"
FILES = sorted(EXAMPLES.glob("*.yaml"))
HELD = {file: SEVERAL.keys() & spec.read(file.read_text(), []).keys() for file in FILES}
STUDIES, SWEEPS, REGIMES = ([f for f in FILES if block in HELD[f]] for block in ("study", "sweep", "regimes"))


def short(study):
    """Runs every variant of a study for two rounds; its table."""
    study.variants = {label: sim.replaced(rounds=2) for label, sim in study.variants.items()}
    return study.run(None).table()


def test_there_are_examples():
    assert {file.stem for file in STUDIES} >= {"gossip", "leader", "alignment", "corrected"}
    assert {file.stem for file in SWEEPS + REGIMES} >= {"sweep", "regimes", "regimes_gaussian", "local_steps"}
    assert [file.stem for file in FILES if not HELD[file]] == ["quickstart"]
    rs.Simulation.from_yaml((EXAMPLES / "quickstart.yaml").read_text())


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_a_study_runs_and_has_its_columns_and_figure(file):
    study = Study.from_yaml(file.read_text(), name=file.stem)
    assert all(sim.placement.actors == 0 for sim in study.variants.values())
    table = short(study)
    assert list(table.index) == list(study.variants)
    assert table["loss"].map(math.isfinite).all()
    assert set(study.columns) <= set(table.columns)
    assert study.figure().axes
    assert (EXAMPLES / f"{file.stem}.png").exists()


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_a_sweep_can_be_built_and_has_its_figure(file):
    plan = Plan.from_yaml(file.read_text(), name=file.stem)
    assert len(plan.points) > 1
    assert plan.how == "population"  # needs no Ray
    assert (EXAMPLES / f"{file.stem}.png").exists()


@pytest.mark.parametrize("file", REGIMES, ids=lambda file: file.stem)
def test_a_probe_of_scaling_can_be_built_and_has_its_figure(file):
    probe = Regimes.from_yaml(file.read_text(), name=file.stem)
    assert len(probe.block.values) > 3
    assert (EXAMPLES / f"{file.stem}.png").exists()


@pytest.mark.parametrize("file", STUDIES + SWEEPS + REGIMES, ids=lambda file: file.stem)
def test_one_who_runs_several_experiments_as_one_is_told_the_command(file):
    (block,) = HELD[file]
    with pytest.raises(ConfigError, match=f"raysim {SEVERAL[block][2]} .*{file.name}"):
        read(file)


def test_the_study_of_rules_has_them_all():
    study = Study.of_rules()
    used = {type(sim.rule).__name__ for sim in study.variants.values()}
    assert used == set(spec.classes(rs.rules.Rule))
    assert short(study)["diverged"].sum() == 0


def test_a_rule_from_scratch(capsys):
    runpy.run_path(str(EXAMPLES / "rule_from_scratch.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["Averaging", "EqualSay"]
    assert all(float(line.split()[-1].rstrip("%")) > 80 for line in lines)
