"""What the Python API promises."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

import raysim as rs
from tests.experiments import arrays, digits, same


def test_initial_model_is_the_seeds():
    flat = lambda sim: torch.cat([p.detach().reshape(-1) for p in sim.initial_model().parameters()])
    assert torch.equal(flat(digits()), flat(digits()))
    assert not torch.equal(flat(digits()), flat(digits(seed=1)))


def test_the_global_generator_is_left_alone():
    torch.random.default_generator.manual_seed(3)
    before = torch.get_rng_state()
    digits(rounds=1).run(None)
    assert torch.equal(before, torch.get_rng_state())


def test_threads_are_put_back():
    torch.set_num_threads(2)
    try:
        digits(rounds=1).run(None)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_metrics_rows_are_the_evaluated_rounds():
    result = digits(rounds=5, evaluate_every=2).run(None)
    assert result.metrics["round"].tolist() == [0, 2, 4, 5]
    assert {"loss", "accuracy", "train_loss", "bits_up", "bits_down", "client_updates", "seconds"} <= set(
        result.metrics
    )


def test_it_learns():
    result = digits(
        rounds=30, cohort=15, local=rs.Local(optimizer=rs.optimizers.SGD(lr=0.2), epochs=2, batch_size=8)
    ).run(None)
    assert result.metrics["accuracy"].iloc[-1] > 0.85


def test_numpy_and_torch_arrays_are_the_same():
    fields = {"partition": rs.partitions.IID(clients=4), "cohort": None}
    plain = arrays()
    tensors = rs.data.Arrays(
        **{
            n: torch.from_numpy(np.array(getattr(plain, n)))
            for n in ("x_train", "y_train", "x_test", "y_test")
        }
    )
    assert same(digits(data=plain, **fields).run(None), digits(data=tensors, **fields).run(None))


def test_explicit_partition_and_cohort_of_one():
    share = rs.partitions.Explicit(indices=[np.arange(5), np.arange(5, 60)])
    result = digits(data=arrays(), partition=share, cohort=1, rounds=3).run(None)
    assert result.status == "finished"


def test_experiments_travel_to_actors():
    sim = digits()
    assert pickle.loads(pickle.dumps(sim)) == sim


def test_replaced_checks_again():
    with pytest.raises(rs.ConfigError, match="only 30 clients"):
        digits().replaced(cohort=31)


def test_importing_raysim_imports_neither_ray_nor_torchvision_nor_matplotlib():
    code = "import sys, raysim; print([m for m in ('ray', 'torchvision', 'matplotlib', 'sklearn') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_readme_example_in_the_package_docstring():
    import doctest

    assert doctest.testmod(rs).failed == 0


@pytest.mark.parametrize(
    "model",
    [rs.models.FedCNN(), rs.models.CNN(), rs.models.Linear(), rs.models.ResNet(depth=18)],
    ids=lambda m: type(m).__name__,
)
def test_models_train_end_to_end(model):
    local = rs.Local(optimizer=rs.optimizers.SGD(lr=0.01), steps=1, batch_size=2)
    result = digits(
        model=model, local=local, cohort=2, rounds=1, partition=rs.partitions.IID(clients=40)
    ).run(None)
    assert result.status == "finished"


def test_text_trains_end_to_end(tmp_path):
    lines = "".join(
        f"{who}:\n{what}\n\n"
        for i in range(12)
        for who, what in [("ANNA", f"one two three {i}"), ("BOB", f"four five {i}")]
    )
    (tmp_path / "play.txt").write_text(lines)
    local = rs.Local(optimizer=rs.optimizers.SGD(lr=0.1), steps=2, batch_size=4)
    for model in (rs.models.CharGRU(), rs.models.CharLSTM()):
        sim = digits(
            data=rs.data.Text(path=str(tmp_path / "play.txt"), length=8), partition=rs.partitions.ByGroup(),
            model=model, local=local, cohort=None, rounds=1,
        )  # fmt: skip
        assert sim.run(None).status == "finished"
