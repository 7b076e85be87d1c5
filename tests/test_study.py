"""Studies: variants merged into an experiment, runs that are not run twice, mistakes named with their variant."""

import warnings
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

import raysim as rs
from raysim import spec
from raysim.core.interfaces import Aggregator
from raysim.core.transforms import Attack
from raysim.study import Panel, Study
from tests.commands import call

TEXT = """
data: {name: Digits, test: 100}
partition: {name: Dirichlet, clients: 12, alpha: 0.5}
model: {name: MLP, hidden: [8]}
local: {optimizer: {name: SGD, lr: 1e-1}, steps: 2, batch_size: 8}
cohort: 4
rounds: 3
study:
  seeds: 2
  variants:
    plain: {}
    slow: {local.optimizer.lr: 0.01}
"""


def study(variants, block=""):
    """A study of some variants, written as YAML."""
    head, _ = TEXT.split("study:")
    return Study.from_yaml(f"{head}study:\n  variants: {variants}\n{block}", name="s")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to work in, with a study."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # main sets its own
    Path("tiny.yaml").write_text(TEXT)
    return tmp_path


def test_variants_are_merged_into_the_experiment():
    got = study(
        "{a: {}, b: {local.steps: 5, partition: {alpha: 1.0}}, c: {partition: {name: IID, clients: 9}, cohort: null}, "
        "d: {rule.weighting: uniform, model: Linear}, e: {local: {optimizer: {name: Adam, lr: 0.01}}}, 7: }"
    ).variants
    assert list(got) == ["a", "b", "c", "d", "e", "7"]
    assert got["a"] == got["7"] == rs.Simulation.from_yaml(TEXT.split("study:")[0], name="s")
    assert (got["b"].local.steps, got["b"].partition.alpha, got["b"].partition.clients) == (5, 1.0, 12)
    assert got["b"].local.optimizer == got["a"].local.optimizer
    assert got["c"].partition == rs.partitions.IID(clients=9)  # another plug-in: no alpha is carried over
    assert got["c"].cohort is None
    assert got["d"].rule == rs.rules.Averaging(weighting="uniform")
    assert got["e"].local.optimizer == rs.optimizers.Adam(lr=0.01)
    assert got["e"].local.steps == 2


def test_changes_reach_into_lists():
    lists = "uplink: [{name: Clip, norm: 2.0}, {name: TopK, fraction: 0.1}]"
    text = TEXT.replace("study:", f"{lists}\nstudy:").replace("plain: {}", "plain: {uplink.1.fraction: 0.5}")
    got = Study.from_yaml(text.replace("slow: {", "slow: {uplink: {0: {norm: 3.0}}, ")).variants
    assert got["plain"].uplink == (rs.privacy.Clip(norm=2.0), rs.compressors.TopK(fraction=0.5))
    assert got["slow"].uplink == (rs.privacy.Clip(norm=3.0), rs.compressors.TopK(fraction=0.1))
    with pytest.raises(rs.ConfigError, match=r"Variant 'slow': '2\.norm' leads into a list of 2"):
        Study.from_yaml(text.replace("slow: {", "slow: {uplink.2.norm: 3.0, "))


def test_overrides_reach_the_experiment_and_the_study():
    got = Study.from_yaml(TEXT, ["rounds=9", "study.seeds=4", "local.optimizer.lr=0.5"])
    assert {s.rounds for s in got.variants.values()} == {9}
    assert [s.local.optimizer.lr for s in got.variants.values()] == [0.5, 0.01]  # a variant's own comes last
    assert got.seeds == 4
    assert Study.from_yaml(TEXT, seeds=1).seeds == 1


def test_panels_and_columns():
    got = study("{a: }", "  plot: {metric: accuracy, against: bits_up}\n  columns: [train_loss]")
    assert got.panels == (Panel("accuracy", ("bits_up",)),)
    assert got.columns == ("train_loss",)
    assert study("{a: }", "  plot: [{}, {metric: accuracy}]").panels == (Panel(), Panel("accuracy"))


@pytest.mark.parametrize(
    ("variants", "block", "said"),
    [
        ("{}", "", "variants is empty"),
        ("{a: {rule: {name: Averging}}}", "", "Variant 'a': rule: there is no rule 'Averging'. Did you mean"),
        (
            "{a: {local.stepps: 3}}",
            "",
            "Variant 'a': local: Local has no field 'stepps'. Did you mean 'steps'",
        ),
        (
            "{a: , b: {cohort: 13}}",
            "",
            "Variant 'b': experiment: Simulation.cohort is 13, but there are only 12",
        ),
        ("{a: {study: {}}}", "", "Variant 'a': experiment: Simulation has no field 'study'"),
        ("{a: 3}", "", "Variant 'a' must be a mapping of changes"),
        ("{a: }", "  conditions: {b: 3}", "Condition 'b' must be a mapping of changes"),
        ("{a: }", "  conditions: {b: {cohort: 13}}", "Variant 'a, b': experiment: Simulation.cohort is 13"),
        ("[a]", "", "variants must be dictionary, got ('a',)"),
        ("{a b: , a-b: }", "", "'a b' and 'a-b' would share the folder a-b"),
        ("{a: }", "  seeds: 0", "seeds must be greater than or equal to 1, got 0"),
        ("{a: }", "  seed: 2", "has no field 'seed'. Did you mean 'seeds'?"),
        (
            "{a: }",
            "  plot: {metrc: loss}",
            "study.plot[0]: Panel has no field 'metrc'. Did you mean 'metric'?",
        ),
        ("{a: }", "  columns: 3", "columns must be"),
    ],
)
def test_mistakes_name_the_variant_and_the_field(variants, block, said):
    with pytest.raises(rs.ConfigError) as error:
        study(variants, block)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


GRID = """
  plot: {metric: accuracy}
  conditions:
    all: {cohort: null}
    few examples: {partition.alpha: 0.2, local: {steps: 3}}
    far off: {local.optimizer.lr: 0.3}
"""


def test_every_variant_is_run_under_every_condition():
    """A condition's changes come after the variant's."""
    got = study("{plain: , slow: {local.optimizer.lr: 0.01, local.steps: 7}}", GRID)
    assert list(got.variants) == [
        f"{v}, {c}" for c in ("all", "few examples", "far off") for v in ("plain", "slow")
    ]
    assert got.variants["slow, all"].cohort is None
    assert got.variants["slow, all"].local.steps == 7
    few = got.variants["slow, few examples"]
    assert (few.partition.alpha, few.local.steps, few.local.optimizer.lr, few.cohort) == (0.2, 3, 0.01, 4)
    assert {got.variants[f"{v}, far off"].local.optimizer.lr for v in ("plain", "slow")} == {0.3}
    assert study("{plain: }", "  conditions: {}").grid is None


def test_a_study_with_conditions_is_a_two_way_table_and_a_heat_map():
    got = study("{plain: , slow: {local.optimizer.lr: 0.01}}", GRID).run(None)
    assert list(got.table().index) == list(got.variants)
    console = Console(width=120)
    with console.capture() as capture:
        console.print(got.printed())
    out = capture.get()
    assert "s: final test accuracy, %, one seed" in " ".join(out.split())
    value = got.runs["slow, few examples"][0]["accuracy"].iloc[-1]
    assert f"{100 * value:.1f}" in next(line for line in out.splitlines() if "few examples" in line)
    ticks = got.figure((Panel("loss"),)).axes[0].get_yticklabels()
    assert [t.get_text() for t in ticks] == ["all", "few examples", "far off"]
    plain = study("{plain: }").run(None).printed()
    assert plain.columns[0].header == "variant"


def test_the_study_of_attacks_has_them_all():
    got = Study.of_attacks()
    robust = {
        type(s.rule.aggregator).__name__ for s in got.variants.values() if hasattr(s.rule, "aggregator")
    }
    assert robust == set(spec.classes(Aggregator)) - {"Mean"}
    used = {type(part).__name__ for s in got.variants.values() for part in s.uplink}
    assert used == set(spec.classes(Attack))
    shares = {part.hostile for s in got.variants.values() for part in s.uplink}
    assert shares == {0.1, 0.3}
    assert len(got.variants) == 8 * (1 + 2 * 7)


def test_what_is_no_study():
    with pytest.raises(rs.ConfigError, match="no block `study:`"):
        Study.from_yaml(TEXT.split("study:")[0])
    with pytest.raises(rs.ConfigError, match="study must be a mapping with variants, got None"):
        Study.from_yaml(TEXT.split("study:")[0] + "study:")
    with pytest.raises(rs.ConfigError, match="has not run yet"):
        Study.from_yaml(TEXT).table()


def test_a_study_without_a_folder_runs_every_variant_with_every_seed():
    lines = []
    got = Study.from_yaml(TEXT).run(None, tell=lines.append)
    assert {label: len(runs) for label, runs in got.runs.items()} == {"plain": 2, "slow": 2}
    alone = rs.Simulation.from_yaml(TEXT.split("study:")[0]).replaced(seed=1).run(None).metrics
    assert got.runs["plain"][1].drop(columns="seconds").equals(alone.drop(columns="seconds"))
    assert lines[1].startswith("plain, seed 1: loss ")
    losses = [run["loss"].iloc[-1] for run in got.runs["slow"]]
    row = got.table().loc["slow"]
    assert row["loss"] == pytest.approx(pd.Series(losses).mean())
    assert row["loss_sd"] == pytest.approx(pd.Series(losses).std())
    assert len(got.figure().axes) == 2


def test_runs_that_have_ended_are_read_and_interrupted_ones_continued(here, monkeypatch):
    from raysim.runtime.coordinator import Coordinator

    whole = Study.from_yaml(TEXT).run(None).runs
    after = Coordinator._after

    def stops(self, server, clients):
        after(self, server, clients)
        if self.simulation.seed == 1 and server.round == 2:
            self.stop()

    with monkeypatch.context() as patch:
        patch.setattr(Coordinator, "_after", stops)
        with pytest.raises(KeyboardInterrupt, match="The same command continues it"):
            Study.from_yaml(TEXT).run("out")
    assert sorted(p.name for p in Path("out").iterdir()) == ["plain-0", "plain-1"]
    first = Path("out/plain-0/run.json").stat().st_mtime_ns
    again = Study.from_yaml(TEXT).run("out").runs
    assert Path("out/plain-0/run.json").stat().st_mtime_ns == first
    for label, runs in again.items():
        for run, other in zip(runs, whole[label], strict=True):
            pd.testing.assert_frame_equal(run.drop(columns="seconds"), other.drop(columns="seconds"))
    Study.from_yaml(TEXT).run("out", fresh=True)
    assert Path("out/plain-0/run.json").stat().st_mtime_ns != first


def test_a_run_of_another_experiment_is_neither_used_nor_removed(here):
    Study.from_yaml(TEXT).run("out")
    Study.from_yaml(TEXT, ["placement.threads=2"]).run("out")  # where it runs does not change the numbers
    with pytest.raises(
        rs.ConfigError, match=r"Variant 'plain': out/plain-0 holds a run of another .* rounds changed"
    ):
        Study.from_yaml(TEXT, ["rounds=2"]).run("out")
    assert Path("out/plain-0/metrics.parquet").exists()


def test_compare_runs_a_study_and_prints_one_table(here, capsys):
    assert call("compare", "tiny.yaml", "rounds=2", "--out", "tiny.png") == 0
    out = capsys.readouterr().out
    assert out.count(", seed ") == 4
    assert "tiny: final values, mean ± standard deviation of 2 seeds" in out
    assert out.rstrip().endswith("tiny.png")
    assert Path("tiny.png").read_bytes().startswith(b"\x89PNG")
    assert Path("runs/tiny/slow-1/metrics.jsonl").exists()
    assert call("compare", "tiny.yaml", "rounds=2", "--metric", "accuracy") == 0
    assert call("compare", "tiny.yaml", "rounds=2", "--metric", "f1") == 2
    assert "No run of the study has a column 'f1'. Known: round, loss" in capsys.readouterr().err
    assert call("compare", "runs/tiny/slow-0", "runs/tiny/slow-1") == 0  # they are runs like any other


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "tiny.yaml"], "tiny.yaml is a study"),
        (["run", "tiny.yaml"], "raysim compare tiny.yaml"),
        (["compare"], "nothing to compare"),
        (["compare", "nowhere.yaml"], "nowhere.yaml cannot be read"),
        (["compare", "plain.yaml"], "no block `study:`"),
        (["compare", "nowhere"], "nowhere is not a run's folder"),
        (
            ["compare", "tiny.yaml", "study.variants.slow.rule=x"],
            "Variant 'slow': rule: there is no rule 'x'",
        ),
    ],
)
def test_bad_input_is_one_paragraph_and_exit_code_2(here, capsys, arguments, said):
    Path("plain.yaml").write_text(TEXT.split("study:")[0])
    assert call(*arguments) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.startswith("raysim: ")
    assert err.count("\n") == 1
    assert not Path("runs").exists()
