"""What only a GPU can show; skipped where there is none."""

import pytest
import torch

import raysim as rs
from tests.experiments import digits

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]
CUDA = rs.Placement(device="cuda")


@pytest.mark.parametrize("form", ["loop", "stacked", "inplace"])
def test_cuda_agrees_with_the_cpu(form):
    execution = rs.Execution(form=form, block=3)
    a, b = (digits(execution=execution, placement=p).run(None).x_P for p in (rs.Placement(), CUDA))
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_streams_are_the_same_bits_on_a_gpu():
    from raysim.core import streams

    for draw in (streams.bits, streams.uniform):
        assert torch.equal(draw(streams.key(3), 1000), draw(streams.key(3).cuda(), 1000).cpu())


def test_kept_rows_survive_running_out_of_memory(monkeypatch):
    from raysim.core.training import Trainer

    real, local = (
        Trainer.train,
        rs.Local(rs.optimizers.SGD(lr=0.05, momentum=0.9), epochs=1, batch_size=8, keep_state=True),
    )
    sim = digits(local=local, placement=CUDA, execution=rs.Execution(block=6))
    expected = sim.run(None)

    def train(self, x_CP, *rest):
        loss = real(self, x_CP, *rest)  # rows are written, and only then memory runs out
        if len(x_CP) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss

    monkeypatch.setattr(Trainer, "train", train)
    with pytest.warns(UserWarning, match="Out of memory"):
        torch.testing.assert_close(sim.run(None).x_P, expected.x_P, rtol=1e-3, atol=1e-4)
