"""PowerSGD against a naive one in double precision; power iteration, projection, zeros, blocks, bits."""

import numpy as np
import pytest
import torch

import raysim as rs
from raysim.compressors.powersgd import orthonormal
from raysim.core import streams
from raysim.core.code import bits_of, pack, unpack
from tests.compressors.senders import SHAPES, P, in_blocks, rows, sender
from tests.experiments import digits

PowerSGD = rs.compressors.PowerSGD


def matrix_rows(C, n, m, seed=0):
    rng = np.random.Generator(np.random.PCG64(seed))
    return torch.from_numpy(rng.standard_normal((C, n * m)).astype(np.float32))


class Naive:
    """Vogels et al. 2019, algorithm 1, for one worker and one matrix after the other.

    Args:
        rank: r.
        limit: matrices are compressed by more than that or not at all.
        seed: of the experiment; the first Q is drawn from it.
    """

    def __init__(self, rank, limit, shapes, seed=0):
        self.rank, self.limit, self.shapes = rank, limit, shapes
        sides = [(s[0], s[1:].numel()) for s in shapes if self.compresses(s)]
        normal = (
            streams.normal(streams.key(seed, "powersgd"), rank * sum(m for _, m in sides)).double().numpy()
        )
        cuts = np.cumsum([rank * m for _, m in sides])[:-1]
        self.Q = [q.reshape(rank, m).T for q, (_, m) in zip(np.split(normal, cuts), sides, strict=True)]

    def compresses(self, shape):
        if len(shape) < 2:
            return False
        n, m = shape[0], shape[1:].numel()
        return n * m / ((n + m) * self.rank) > self.limit

    def send(self, row):
        out, at, k = row.copy(), 0, 0
        for shape in self.shapes:
            size = shape.numel()
            if self.compresses(shape):
                M = row[at : at + size].reshape(shape[0], -1)
                left = np.linalg.qr(M @ self.Q[k])[0]
                self.Q[k] = M.T @ left
                out[at : at + size] = (left @ self.Q[k].T).ravel()
                k += 1
            at += size
        return out


@pytest.mark.parametrize(("rank", "limit"), [(1, 2.0), (2, 1.0), (3, 1.0)])
def test_equals_naive_over_rounds(rank, limit):
    """Every client from the same Q at first, then from its own; convolutions as matrices; the rest in full."""
    compressor, kept = PowerSGD(rank=rank, min_compression=limit), {}
    naive = [Naive(rank, limit, SHAPES) for _ in range(3)]
    for round in range(6):
        x_CP = rows(3, seed=round)
        sent_CP, _ = compressor.apply(x_CP.clone(), sender(3, kept=kept, round=round))
        for c in range(3):
            np.testing.assert_allclose(
                sent_CP[c], naive[c].send(x_CP[c].double().numpy()), rtol=1e-3, atol=1e-4
            )


@pytest.mark.parametrize(
    ("rank", "limit", "numbers"),
    [
        (1, 2.0, (7 + 9) + 7 + (4 + 6) + 4 + 1),
        (1, 2.4, (7 + 9) + 7 + 24 + 4 + 1),  # 24 / 10 is not more than 2.4
        (2, 1.0, 2 * (7 + 9) + 7 + 2 * (4 + 6) + 4 + 1),
        (2, 2.0, P),
        (9, 1.0, P),
    ],
)
def test_bits_are_those_of_the_bytes(rank, limit, numbers):
    compressor, x_CP = PowerSGD(rank=rank, min_compression=limit), rows(3)
    before = x_CP.clone()
    code = compressor.encode(x_CP, sender(3))
    assert torch.equal(x_CP, before)
    assert bits_of(code) == 32 * numbers == 8 * len(pack(code, 1))
    received_CP = compressor.decode(code, sender(3))
    assert torch.equal(compressor.decode(unpack(pack(code, 1), code), sender(1))[0], received_CP[1])
    if numbers == P:
        assert torch.equal(received_CP, x_CP)


def test_the_default_leaves_small_matrices_alone():
    """A net of vectors and small matrices is sent as it is, and nothing is remembered."""
    kept, shapes = {}, [torch.Size([3, 4]), torch.Size([5])]
    x_CP = rows(2, 17)
    sent_CP, bits = PowerSGD().apply(x_CP.clone(), sender(2, shapes, kept))
    assert torch.equal(sent_CP, x_CP)
    assert bits == 32 * 17
    assert not kept


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_is_a_projection(rank):
    """||M - C(M)||² = ||M||² - ||C(M)||², never more than ||M||², and C(C(M)) = C(M) from the same Q."""
    x_CP, shapes, kept = matrix_rows(4, 20, 30), [torch.Size([20, 30])], {}
    compressor = PowerSGD(rank=rank)
    sent_CP, _ = compressor.apply(x_CP.clone(), sender(4, shapes, kept))
    gone, length, left = (t.double().square().sum(1) for t in (x_CP - sent_CP, x_CP, sent_CP))
    torch.testing.assert_close(gone, length - left, rtol=1e-4, atol=1e-4)
    assert (gone <= compressor.error(shapes) * length).all()
    again_CP, _ = compressor.apply(sent_CP.clone(), sender(4, shapes, kept, round=1))
    torch.testing.assert_close(again_CP, sent_CP, rtol=1e-3, atol=1e-4)


def test_nothing_better_than_one_is_promised_because_nothing_better_holds():
    """After a matrix of other rows and columns, Q misses the next one altogether."""
    shapes, kept = [torch.Size([8, 8])], {}
    first, second = torch.zeros(1, 8, 8), torch.zeros(1, 8, 8)
    first[0, 0, 0], second[0, 1, 1] = 1, 1
    PowerSGD().apply(first.flatten(1), sender(1, shapes, kept))
    sent, _ = PowerSGD().apply(second.flatten(1), sender(1, shapes, kept, round=1))
    assert (sent == 0).all()
    third, _ = PowerSGD().apply(second.flatten(1), sender(1, shapes, kept, round=2))
    torch.testing.assert_close(third, second.flatten(1))  # that Q was zero, so it began anew


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_warm_start_finds_the_best_low_rank_matrix(rank):
    """The same matrix again and again is power iteration: the error falls to that of the truncated SVD."""
    rng = np.random.Generator(np.random.PCG64(0))
    U, V = (np.linalg.qr(rng.standard_normal((s, 12)))[0] for s in (24, 16))
    singular = 0.6 ** np.arange(12)
    x_1P = torch.from_numpy((U * singular @ V.T).astype(np.float32)).reshape(1, -1)
    best, kept, errors = np.sqrt((singular[rank:] ** 2).sum()), {}, []
    for round in range(25):
        sent, _ = PowerSGD(rank=rank).apply(x_1P.clone(), sender(1, [torch.Size([24, 16])], kept, round))
        errors.append((sent - x_1P).norm().item())
    assert errors[0] > 1.02 * best
    assert errors[-1] == pytest.approx(best, rel=1e-3)


@pytest.mark.parametrize("true", [1, 2])
def test_a_matrix_of_lower_rank_arrives_whole_and_kills_no_direction(true):
    """Left-over columns are zero in the message; later matrices of full rank find all r of them again."""
    shapes, kept, compressor = [torch.Size([20, 30])], {}, PowerSGD(rank=3)
    low = (
        matrix_rows(2, 20, true).view(2, 20, true) @ matrix_rows(2, true, 30, 1).view(2, true, 30)
    ).flatten(1)
    code = compressor.encode(low, sender(2, shapes, kept))
    assert ((code["P"].values.view(2, 3, 20).norm(dim=2) > 0).sum(1) == true).all()
    torch.testing.assert_close(compressor.decode(code, sender(2, shapes)), low, rtol=1e-3, atol=1e-4)
    zero = compressor.encode(torch.zeros(2, 600), sender(2, shapes, kept, round=1))
    assert (compressor.decode(zero, sender(2, shapes)) == 0).all()
    full = compressor.encode(matrix_rows(2, 20, 30), sender(2, shapes, kept, round=2))
    for values in full["P"].values.view(2, 3, 20):
        torch.testing.assert_close(values @ values.T, torch.eye(3), rtol=1e-5, atol=1e-5)


def test_gram_schmidt_is_orthonormal_even_where_rows_are_almost_dependent():
    base = matrix_rows(6, 1, 50)
    near = torch.stack([base, base + 1e-3 * matrix_rows(6, 1, 50, 1), matrix_rows(6, 1, 50, 2), base], 1)
    out = orthonormal(near.clone())
    expected = torch.diag(torch.tensor([1.0, 1, 1, 0])).expand(6, 4, 4)
    torch.testing.assert_close(out @ out.transpose(1, 2), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out[:, 0], base / base.norm(dim=1, keepdim=True))


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_scales_with_its_input(scale):
    """Also over rounds, where Q carries the scale: no underflow in its squares."""
    shapes, kept, scaled = [torch.Size([20, 30])], {}, {}
    for round in range(4):
        x_CP = matrix_rows(2, 20, 30, round)
        sent_CP, _ = PowerSGD(rank=2).apply(x_CP.clone(), sender(2, shapes, kept, round))
        other_CP, _ = PowerSGD(rank=2).apply(x_CP * scale, sender(2, shapes, scaled, round))
        torch.testing.assert_close(other_CP / scale, sent_CP, rtol=1e-3, atol=1e-4)


def test_not_a_number_arrives_as_such():
    x_CP = rows(2)
    x_CP[1, 3] = torch.nan
    sent_CP, _ = PowerSGD().apply(x_CP, sender(2))
    assert sent_CP[0].isfinite().all()
    assert sent_CP[1, :63].isnan().any()


@pytest.mark.parametrize("rank", [1, 2, 4])
@pytest.mark.parametrize("sides", [(16, 64), (33, 17), (10, 63), (128, 577), (21, 1000), (1000, 21)])
def test_blocks_do_not_show(sides, rank):
    """To the last bit, over rounds, wherever in memory a row begins."""
    shapes = [torch.Size([3]), torch.Size(sides)]
    x_CP, compressor = rows(8, 3 + sides[0] * sides[1]), PowerSGD(rank=rank, min_compression=1.0)
    whole_CP = in_blocks(compressor, x_CP, 8, shapes, rounds=2)
    assert not torch.equal(whole_CP, x_CP)
    for size in (1, 3):
        assert torch.equal(in_blocks(compressor, x_CP, size, shapes, rounds=2), whole_CP)


def test_inside_feedback_nothing_is_lost():
    compressor, kept = rs.compressors.Feedback(PowerSGD()), {}
    wanted_CP = sent_CP = torch.zeros(3, P)
    for round in range(10):
        x_CP = rows(3, seed=round)
        wanted_CP = wanted_CP + x_CP
        sent_CP = sent_CP + compressor.apply(x_CP.clone(), sender(3, kept=kept, round=round))[0]
    memory_CP = torch.stack([kept[c, "memory"] for c in range(3)])
    torch.testing.assert_close(sent_CP + memory_CP, wanted_CP, rtol=1e-4, atol=1e-4)
    assert memory_CP[:, :63].norm() > 1  # though much was left out at first


def test_feedback_is_what_makes_it_train():
    """Thirty rounds on the digits: memory makes good most of what rank 1 alone loses."""
    losses = []
    for uplink in ((), (rs.compressors.Feedback(PowerSGD()),), (PowerSGD(),)):
        result = digits(uplink=uplink, rounds=30, evaluate_every=30).run(None)
        losses.append(result.metrics["loss"].iloc[-1])
    plain, feedback, bare = losses
    assert feedback - plain < 0.5 * (bare - plain)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PowerSGD(rank=0), "PowerSGD.rank must be greater than or equal to 1, got 0"),
        (
            lambda: PowerSGD(min_compression=0.5),
            "PowerSGD.min_compression must be greater than or equal to 1",
        ),
    ],
)
def test_refusals(make, words):
    with pytest.raises(rs.ConfigError) as error:
        make()
    assert words in str(error.value)
