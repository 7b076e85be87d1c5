"""The probe of scaling as it is written: what is refused, from files and from Python; the command."""

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from raysim.cli.tuning import regimes as command
from raysim.core.plugin import ConfigError
from tests.tuning.fakes import EXPERIMENT, laws, parabola
from tuning.regimes import Regimes, regimes


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    """The command keeps what it tried in the folder it is called in."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["regimes.values=[4,2]"], r"values must rise.*got \[4, 2\]"),
        (["regimes.values=[4]"], "two at least"),
        (["regimes.along=rounds"], r"along must be .*batch_size"),
        (["regimes.target=nothing"], "target"),
        (["regimes.steps.log_grid=[2,1,4]"], "low < high"),
        (["regimes.stps=1"], "no field 'stps'. Did you mean 'steps'"),
        (["local.steps=null", "local.epochs=1"], "write local.steps"),
        (["local.optimizer.lr={name: Step, lr: 0.1, drops: [3]}"], "."),
        (["regimes.examples_per_round=8", "partition.clients=2"], "with 2 clients is another method"),
        (["regimes.examples_per_round=8", "regimes.along=clients"], "belongs to along: batch_size"),
        (["regimes.metric=train_loss"], "train_loss is no target"),
        (["regimes.metric=bits_up"], "bits_up is no target"),
        (["regimes.steps=0.1"], r"log_grid: \[0.25, 4, 7\]}, got 0.1"),
        (["local.optimizer={name: MaSS, lr: 0.1, alpha: 0.1, kappa: 2}"], "Write local.keep_state: true"),
        (["regimes.along=clients", "cohort=4"], "only 1 clients"),
        (["regimes.variants={a: 3}"], "Variant 'a' must be a mapping of changes, got 3"),
        (["regimes.variants={a: {local.optimizer.name: Nothing}}"], "Variant 'a'.*no optimizer 'Nothing'"),
    ],
)
def test_what_is_refused(overrides, words):
    with pytest.raises(ConfigError, match=words):
        Regimes.from_yaml(EXPERIMENT, overrides)


@pytest.mark.parametrize(
    "overrides",
    [["regimes.values=[1,128,256]"], ["regimes.along=clients", "local.batch_size=4"]],
    ids=["one client", "64 clients"],
)
def test_batches_larger_than_a_share_are_refused_before_anything_runs(monkeypatch, overrides):
    asked = laws(monkeypatch, lambda s: 10.0)
    with pytest.raises(ConfigError, match=r"more than the smallest of .* clients has, (200|3)\."):
        Regimes.from_yaml(EXPERIMENT, overrides).run()
    assert not asked


def test_a_cohort_may_be_larger_than_the_clients_that_the_file_has():
    found = Regimes.from_yaml(EXPERIMENT, ["regimes.along=clients", "regimes.values=[8,16,64]", "cohort=8"])
    assert found.variants["law"].partition.clients == 64


def test_from_python_mistakes_are_named_too():
    simulation = Regimes.from_yaml(EXPERIMENT).variants["law"]
    block = {"values": [1, 4], "target": 0.1}
    with pytest.raises(ConfigError, match="no field 'vals'"):
        regimes(simulation, **block, vals=3)
    with pytest.raises(ConfigError, match="needs target"):
        regimes(simulation, values=[1, 4])
    with pytest.raises(ConfigError, match="call regimes for each"):
        regimes(simulation, **block, variants={"m": {}})
    with pytest.raises(ConfigError, match="low < high"):
        regimes(simulation, **block, steps={"log_grid": [2, 1, 3]})
    for show in ("table", "text", "printed", "figure"):
        with pytest.raises(ConfigError, match="Call its run"):
            getattr(Regimes.from_yaml(EXPERIMENT), show)()


def test_an_experiment_without_the_block_is_told_how_to_get_one():
    text = EXPERIMENT.split("regimes:")[0]
    with pytest.raises(ConfigError, match=r"no block `regimes:`.*raysim run"):
        Regimes.from_yaml(text)


def test_the_command(monkeypatch, tmp_path):
    """Two variants: a table, words, a figure with a column each, and a file of the table."""
    laws(monkeypatch, lambda s: parabola(s.local.optimizer.lr, 0.1, 20 * (1 + 8 / s.local.batch_size)))
    file, app = tmp_path / "probe.yaml", typer.Typer()
    file.write_text(EXPERIMENT)
    app.command()(command)
    arguments = [str(file), "regimes.variants={slow: {}, fast: {local.optimizer.momentum: 0.5}}"]
    arguments += ["--out", str(tmp_path / "a.png"), "--table", str(tmp_path / "a.csv"), "--quiet"]
    said = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert said.exit_code == 0
    assert "slow: Use batch" in said.stdout
    assert "fast: Use batch" in said.stdout
    assert (tmp_path / "a.png").stat().st_size > 10_000
    assert set(pd.read_csv(tmp_path / "a.csv")["variant"]) == {"slow", "fast"}


@pytest.mark.parametrize(
    ("option", "name", "words"),
    [
        ("--out", "nodir/a.png", "no folder .*nodir"),
        ("--out", "a.foo", "no image format"),
        ("--table", "nodir/a.csv", "no folder .*nodir"),
    ],
)
def test_the_command_refuses_files_it_cannot_write_first(monkeypatch, tmp_path, option, name, words):
    asked = laws(monkeypatch, lambda s: 10.0)
    file = tmp_path / "probe.yaml"
    file.write_text(EXPERIMENT)
    app = typer.Typer()
    app.command()(command)
    with pytest.raises(ConfigError, match=words):
        CliRunner().invoke(app, [str(file), option, str(tmp_path / name)], catch_exceptions=False)
    assert not asked


def test_an_interrupted_command_prints_what_was_found(monkeypatch, tmp_path):
    def needed(simulation):
        if simulation.local.batch_size == 4:
            raise KeyboardInterrupt
        return 123.0

    laws(monkeypatch, needed)
    file, app = tmp_path / "probe.yaml", typer.Typer()
    file.write_text(EXPERIMENT)
    app.command()(command)
    said = CliRunner().invoke(app, [str(file), "--quiet", "--out", str(tmp_path / "a.png")])
    assert said.exit_code == 130
    assert "123" in said.stdout
    assert "the same command goes on" in said.stderr
    assert not (tmp_path / "a.png").exists()
    laws(monkeypatch, lambda s: 123.0)
    said = CliRunner().invoke(app, [str(file), "--out", str(tmp_path / "a.png")])
    assert "tried before, in runs/law" in said.stderr
    assert (tmp_path / "a.png").exists()
