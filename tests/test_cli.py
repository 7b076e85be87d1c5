"""The command line on tiny experiments in this process: what it prints, writes and answers to bad input."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from raysim.cli import main
from tests.commands import call

TINY = """
data: {name: Digits, test: 100}
partition: {name: Dirichlet, clients: 12, alpha: 0.5}
model: {name: MLP, hidden: [8]}
local:
  optimizer: {name: SGD, lr: 0.1}
  steps: 2
  batch_size: 8
cohort: 4
rounds: 4
"""


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A folder to work in, with an experiment file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # main sets its own
    Path("tiny.yaml").write_text(TINY)
    return tmp_path


def test_run_writes_a_folder_named_after_the_file(tiny, capsys):
    assert call("run", "tiny.yaml") == 0
    out = capsys.readouterr().out
    assert "12 clients (4 a round)" in out
    assert "round 4/4" in out
    assert "finished" in out
    assert "runs/tiny-1" in out
    run = tiny / "runs" / "tiny-1"
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 5
    assert (run / "figures" / "learning_curve.png").stat().st_size > 1000


def test_quiet_prints_only_the_folder(tiny, capsys):
    assert call("run", "tiny.yaml", "rounds=1", "--quiet") == 0
    assert capsys.readouterr().out == "runs/tiny-1\n"


def test_overrides_reach_the_run(tiny):
    assert call("run", "tiny.yaml", "rounds=2", "local.optimizer.lr=0.5", "--folder", "out", "--quiet") == 0
    text = (tiny / "out" / "experiment.yaml").read_text()
    assert "rounds: 2\n" in text
    assert "lr: 0.5\n" in text


def test_diverged_run_has_its_own_exit_code_and_advice(tiny, capsys):
    assert call("run", "tiny.yaml", "local.optimizer.lr=1e38", "--folder", "out") == 3
    out = capsys.readouterr().out
    assert "smaller step size" in out
    assert "kept in out" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "nowhere.yaml"], "nowhere.yaml cannot be read: No such file"),
        (["run", "."], "cannot be read: Is a directory"),
        (["run", "tiny.yaml", "data=Digit"], "there is no data 'Digit'. Did you mean 'Digits'?"),
        (["run", "tiny.yaml", "local.optimiser.lr=1"], "Did you mean 'optimizer'?"),
        (["run", "tiny.yaml", "rounds=many"], "Simulation.rounds must be"),
        (["run", "tiny.yaml", "local.optimizer.lr=-1"], "SGD.lr must be greater than 0"),
        (["run", "tiny.yaml", "cohort=13"], "only 12 clients"),
        (["run", "tiny.yaml", "rounds"], "An override is written path=value"),
        (["resume", "nowhere"], "nowhere is not a run's folder"),
        (["plot"], "nothing to plot"),
        (["plot", "nowhere"], "nowhere is not a run's folder"),
        (["plot", "--partition", "nowhere.yaml"], "nowhere.yaml cannot be read"),
        (["describe", "dirchlet"], "Did you mean 'Dirichlet'"),
    ],
)
def test_bad_input_is_one_paragraph_and_exit_code_2(tiny, capsys, arguments, said):
    assert call(*arguments) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err
    assert err.startswith("raysim: ")
    assert err.count("\n") == 1
    assert not (tiny / "runs").exists()


def test_resume_of_a_finished_run_is_refused(tiny, capsys):
    assert call("run", "tiny.yaml", "--folder", "out", "--quiet") == 0
    assert call("resume", "out") == 2
    assert "nothing to resume" in capsys.readouterr().err


def test_a_stopped_run_says_how_to_continue_and_does(tiny, capsys, monkeypatch):
    from raysim.runtime.coordinator import Coordinator

    after = Coordinator._after

    def stops_after_two(self, server, clients):
        after(self, server, clients)
        if server.round == 2:
            self.stop()

    with monkeypatch.context() as patch:
        patch.setattr(Coordinator, "_after", stops_after_two)
        assert call("run", "tiny.yaml", "--folder", "out") == 130
    assert "raysim resume out" in capsys.readouterr().out
    assert call("resume", "out") == 0
    assert "Continuing after round 2" in capsys.readouterr().out


def test_failing_client_code_gives_exit_code_1(tiny, capsys, monkeypatch):
    from raysim.core.host import ClientError
    from raysim.simulation import Simulation

    def fails(*_, **__):
        raise ClientError("client 3 failed in round 0")

    monkeypatch.setattr(Simulation, "run", fails)
    assert call("run", "tiny.yaml") == 1
    assert capsys.readouterr().err == "raysim: client 3 failed in round 0\n"


def test_an_unforeseen_error_keeps_its_traceback(tiny, monkeypatch):
    from raysim.simulation import Simulation

    def fails(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(Simulation, "run", fails)
    with pytest.raises(ZeroDivisionError):
        main(["run", "tiny.yaml"])


def test_plot_and_compare_draw_runs(tiny, capsys):
    for name, lr in (("a", "0.1"), ("b", "0.2")):
        assert call("run", "tiny.yaml", f"local.optimizer.lr={lr}", "--folder", name, "--quiet") == 0
    capsys.readouterr()
    assert call("plot", "a", "b", "--metric", "accuracy", "--against", "round,bits_up", "--out", "p.png") == 0
    assert capsys.readouterr().out == "p.png\n"
    assert call("compare", "a", "b") == 0
    out = capsys.readouterr().out
    assert "test loss" in out
    assert out.rstrip().endswith("compare-loss.png")
    for file in ("p.png", "compare-loss.png"):
        assert (tiny / file).read_bytes().startswith(b"\x89PNG")
    assert call("compare", "a", "b", "--metric", "f1") == 2
    assert "Known: round, loss, accuracy" in capsys.readouterr().err
    assert call("plot", "a", "--out", "p.nothing") == 2
    assert "cannot be written" in capsys.readouterr().err


def test_runs_of_one_name_are_told_apart(tiny, capsys):
    for name in ("x/run", "y/run"):
        assert call("run", "tiny.yaml", "rounds=1", "--folder", name, "--quiet") == 0
    assert call("compare", "x/run", "y/run") == 0
    out = capsys.readouterr().out
    assert "│ x/run" in out
    assert "│ y/run" in out


def test_partition_is_drawn_without_a_run(tiny, capsys):
    assert call("plot", "--partition", "tiny.yaml") == 0
    assert capsys.readouterr().out == "tiny-partition.png\n"
    assert (tiny / "tiny-partition.png").exists()


def test_describe_prints_lists_cards_and_yaml(tiny, capsys):
    assert call("describe") == 0
    listed = capsys.readouterr().out
    assert "Dirichlet" in listed
    assert "Averaging" in listed
    assert call("describe", "sgd") == 0
    shown = capsys.readouterr().out
    assert "momentum" in shown
    assert "number ≥ 0, < 1" in shown
    assert "Robbins, Monro" in shown
    assert call("describe", "MLP", "--yaml") == 0
    assert "hidden: [64]  # width" in capsys.readouterr().out


def test_doctor_exits_1_on_a_problem(tiny, capsys, monkeypatch):
    from raysim import doctor

    for level, code in (("warning", 0), ("problem", 1)):
        finding = doctor.Finding(level, "ray", "is away", "Call it back.")
        monkeypatch.setattr(doctor, "examine", lambda *_, finding=finding: [finding])
        assert call("doctor") == code
        assert "Call it back." in capsys.readouterr().out


def test_help_as_installed():
    command = [sys.executable, "-m", "raysim.cli", "--help"]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    for name in ("run", "resume", "plot", "compare", "describe", "doctor"):
        assert f"  {name} " in out.stdout


def test_quickstart_is_a_valid_experiment():
    from raysim.simulation import Simulation

    file = Path(__file__).parents[1] / "examples" / "quickstart.yaml"
    simulation = Simulation.from_yaml(file.read_text(), name="quickstart")
    assert simulation.cohort_size(1000) == 100
    assert simulation.placement.actors == 2


def test_topology_of_the_rule_is_drawn_without_a_run(tiny, capsys):
    gossip = TINY.replace("cohort: 4\n", "rule: {name: Gossip, topology: Ring}\n")
    Path("gossip.yaml").write_text(gossip)
    assert call("plot", "--topology", "gossip.yaml") == 0
    assert capsys.readouterr().out == "gossip-topology.png\n"
    assert (tiny / "gossip-topology.png").read_bytes().startswith(b"\x89PNG")
    assert call("plot", "--topology", "tiny.yaml") == 2
    assert "The rule Averaging of this experiment has no topology" in capsys.readouterr().err
