"""What the README says runs, and the checks call the commands it gives."""

import re
from pathlib import Path

import raysim as rs
from tests.experiments import digits

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def test_two_commands_and_ci_calls_the_second():
    install, test = (block.strip() for block in blocks("sh")[:2])
    assert "raysim run examples/quickstart.yaml" in install
    assert test.endswith(".venv/bin/pytest -n 2 --dist loadfile")
    assert "&& .venv/bin/pytest" in (ROOT / ".ci" / "run").read_text()


def test_the_python_example(tmp_path, monkeypatch):
    """As printed, but with fewer clients and rounds."""
    monkeypatch.chdir(tmp_path)
    code = blocks("python")[0].replace("clients=1000", "clients=40").replace("cohort=100", "cohort=10")
    assert code.count("\n") <= 13
    exec(code.replace("rounds=50", "rounds=2").replace("copies=20", "copies=1"), {})
    assert (tmp_path / "loss.png").stat().st_size > 10_000
    assert (tmp_path / "runs" / "run-1" / "experiment.yaml").exists()


def test_the_rule_example():
    scope = {"__name__": "damped"}
    exec(blocks("python")[1], scope)
    full = digits(rounds=1).run(None).x_P
    start = rs.Simulation.initial_model(digits())
    import torch

    x = torch.cat([p.detach().reshape(-1) for p in start.parameters()])
    half = digits(rounds=1, rule=scope["Damped"](share=0.5)).run(None).x_P
    torch.testing.assert_close(half - x, 0.5 * (full - x))


def test_every_part_is_named():
    from raysim import spec

    table = README.split("## What is here")[1].split("## How it stays")[0]
    for kind in spec.kinds()[:-1]:
        for name in spec.classes(kind):
            assert f"`{name}`" in table, name


def test_the_quick_start_is_an_experiment():
    sim = rs.Simulation.from_yaml((ROOT / "examples" / "quickstart.yaml").read_text())
    assert (sim.partition.clients, sim.cohort, sim.rounds, sim.placement.actors) == (1000, 100, 100, 2)
