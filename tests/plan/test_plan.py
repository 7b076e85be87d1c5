"""The command, and what is said about experiments that cannot be planned."""

import json
import warnings
from pathlib import Path

import pytest
import typer

from raysim.cli.plan import plan
from raysim.core.plugin import ConfigError

TINY = """
data: {name: Digits, test: 100}
partition: {name: Dirichlet, clients: 12, alpha: 0.5}
model: {name: MLP, hidden: [8]}
local: {optimizer: {name: SGD, lr: 0.1}, steps: 2, batch_size: 8}
rule: {name: Averaging}
cohort: 4
rounds: 7
evaluate_every: 3
"""
CLUSTER = """
provider: {type: aws}
head_node_type: head
available_node_types:
  head: {resources: {CPU: 0}, node_config: {InstanceType: m6i.large}}
  gpu: {max_workers: 8, node_config: {InstanceType: g5.xlarge}}
"""


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A folder with an experiment, a cluster and a calibration."""
    folder = tmp_path_factory.mktemp("plan")
    (folder / "tiny.yaml").write_text(TINY)
    (folder / "cluster.yaml").write_text(CLUSTER)
    call(folder, "tiny.yaml", "--no-ray", "--calibration", "facts.json")
    return folder


def call(folder, *arguments):
    """Run the command in a folder."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(plan)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("COLUMNS", "200")
        patch.setattr(warnings, "formatwarning", warnings.formatwarning)
        app(list(arguments), standalone_mode=False)


CLUSTERED = ("tiny.yaml", "--cluster", "cluster.yaml", "--calibration", "facts.json")


def test_a_prediction_for_people(calibrated, capsys):
    call(calibrated, *CLUSTERED, "--nodes", "16", "--actors-per-gpu", "2", "--clients", "1e4", "cohort=0.5")
    out = capsys.readouterr().out
    assert "Predicted for 16 nodes of gpu (g5.xlarge); calibrated on" in out
    for said in (
        "actors",
        "32",
        "10,000, 5,000 a round",
        "in all",
        "on its GPU",
        "traffic of the head",
        "saturates first",
    ):
        assert said in out
    assert "No GPU was measured" in out
    assert "cost is assumed" in out
    assert "allows 8 workers" in out
    assert "data sheet, 2026; check" in out
    assert "Twice the nodes" in out


def test_a_prediction_for_programs(calibrated, capsys):
    call(calibrated, *CLUSTERED, "--nodes", "4", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["actors"] == 4
    assert found["clients"] == 12
    assert found["cohort"] == 4
    assert found["fits"]
    assert found["first"] in found["busy"]
    assert found["total_s"] > 7 * found["round_s"] + 4 * found["evaluation_s"]
    assert found["round"]["training_s"] > 0


def test_a_faster_cluster_trains_faster_and_nothing_else(calibrated, capsys):
    found = {}
    for speed in ("1", "10"):
        call(calibrated, *CLUSTERED, "--nodes", "2", "--json", "--speed", speed)
        found[speed] = json.loads(capsys.readouterr().out)["round"]
    assert found["10"]["training_s"] == pytest.approx(found["1"]["training_s"] / 10)
    assert found["10"]["calls_s"] == found["1"]["calls_s"]


def test_this_machine_is_planned_for_where_no_cluster_is_named(calibrated, capsys):
    call(calibrated, "tiny.yaml", "--calibration", "facts.json", "--actors", "3", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["actors"] == 3
    assert found["round"]["head_network_s"] == 0


def test_the_length_of_a_run_and_its_cohort_do_not_need_a_new_calibration(calibrated, capsys):
    call(calibrated, *CLUSTERED, "rounds=700", "cohort=8", "--json")
    assert json.loads(capsys.readouterr().out)["cohort"] == 8


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.yaml"], "none.yaml cannot be read"),
        (["tiny.yaml", "rule=Averagin"], "Did you mean 'Averaging'"),
        (["tiny.yaml", "--nodes", "2"], "say --cluster"),
        (["tiny.yaml", "--cluster", "none.yaml"], "cluster none.yaml cannot be read"),
        (["tiny.yaml", "--cluster", "cluster.yaml", "--worker-type", "cpu"], "no worker type 'cpu'"),
        (["tiny.yaml", "--cluster", "cluster.yaml", "--gpus", "0", "--cpus", "0.5"], "takes placement.cpus_per"),
        (["tiny.yaml", "--calibration", "facts.json", "local.steps=3"], "is of another experiment"),
        (["tiny.yaml", "--calibration", "tiny.yaml"], "is not a file that `raysim plan` wrote"),
        ([*CLUSTERED, "--clients", "inf"], "--clients is infinite"),
        ([*CLUSTERED, "--clients", "1e9"], "do not fit: memory of"),
        ([*CLUSTERED, "--clients", "3"], "cohort is 4, but there are only 3 clients"),
        (["tiny.yaml", "--no-ray", "local.optimizer.lr=1e30"], "diverged in round"),
    ],
)  # fmt: skip
def test_what_cannot_be_planned_is_said(calibrated, arguments, said):
    with pytest.raises(ConfigError) as caught:
        call(calibrated, *arguments)
    assert said in str(caught.value)


def test_a_calibration_that_cannot_be_written(calibrated):
    with pytest.raises(ConfigError, match=r"cannot be written to nowhere/facts\.json: No such file"):
        call(calibrated, "tiny.yaml", "--no-ray", "--calibration", "nowhere/facts.json")


def test_a_calibration_is_the_same_when_read_again(calibrated):
    from raysim.plan.facts import Calibration
    from raysim.simulation import Simulation

    found = Calibration.read(Path(calibrated / "facts.json"), Simulation.from_yaml(TINY))
    found.save(calibrated / "again.json")
    assert (calibrated / "again.json").read_text() == (calibrated / "facts.json").read_text()
