"""Each compressor against a naive one: one client, one number at a time, in float64, from the same uniform numbers."""

import itertools
import math

import numpy as np
import pytest
import torch

import raysim as rs
from raysim.core import streams
from tests.compressors.senders import SHAPES, P, rows, sender

C = 6
K = round(0.1 * P)
LAYERS = np.cumsum([0] + [s.numel() for s in SHAPES])


def uniforms(x_CP):
    """What clients draw to round with, and the integers behind it."""
    key_C = sender(len(x_CP)).key("rounding")
    return streams.uniform(key_C, x_CP.shape[1]).double().numpy(), streams.bits(key_C, x_CP.shape[1]).numpy()


def awkward_rows():
    """Zeros, powers of two, a row of equal numbers, a row of one, numbers far apart."""
    x_CP = rows(C)
    x_CP[1, ::3] = 0
    x_CP[2] = 2.0 ** torch.arange(-50, P - 50)
    x_CP[3] = -1.5
    x_CP[4] = 0
    x_CP[4, 7] = -3.0
    x_CP[5, ::2] *= 1e-6
    return x_CP


def agree(compressor, naive, x_CP):
    sent_CP = compressor.apply(x_CP.clone(), sender(len(x_CP)))[0]
    for client in range(len(x_CP)):
        np.testing.assert_allclose(sent_CP[client], naive(x_CP[client].double().numpy(), client), rtol=2e-6)


# ---- sparse ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.5, 0.95])
def test_topk(fraction, per_layer):
    edges = LAYERS if per_layer else [0, P]

    def naive(x, client):
        sent = np.zeros(P)
        for a, b in itertools.pairwise(edges):
            order = sorted(range(a, b), key=lambda j: (-abs(x[j]), j))
            for j in order[: max(1, round(fraction * (b - a)))]:
                sent[j] = x[j]
        return sent

    agree(rs.compressors.TopK(fraction=fraction, per_layer=per_layer), naive, awkward_rows())


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("fraction", [0.001, 0.25, 1.0])
def test_randomk(fraction, scaled):
    """The positions of the largest k of P random integers."""
    drawn = streams.bits(sender(C).key("positions"), P).tolist()

    def naive(x, client):
        k = max(1, round(fraction * P))
        sent = np.zeros(P)
        for j in sorted(range(P), key=lambda j: -drawn[client][j])[:k]:
            sent[j] = x[j] * (P / k if scaled else 1)
        return sent

    agree(rs.compressors.RandomK(fraction=fraction, scaled=scaled), naive, awkward_rows())


# ---- rounded ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["l2", "max"])
@pytest.mark.parametrize(("levels", "bucket"), [(1, None), (4, 10), (15, 512), (127, 1), (1000, 33)])
def test_qsgd(levels, bucket, norm):
    x_CP = awkward_rows()
    u_CP, _ = uniforms(x_CP)

    def naive(x, client):
        sent = np.zeros(P)
        for a in range(0, P, bucket or P):
            v = x[a : a + (bucket or P)]
            size = math.sqrt(sum(t * t for t in v)) if norm == "l2" else max(abs(t) for t in v)
            for j, t in enumerate(v):
                if t == 0:
                    continue
                ratio = levels * abs(t) / size
                level = math.floor(ratio)
                if u_CP[client, a + j] < ratio - level:
                    level += 1
                sent[a + j] = math.copysign(size * level / levels, t)
        return sent

    agree(rs.compressors.QSGD(levels=levels, bucket=bucket, norm=norm), naive, x_CP)


def test_natural():
    """Up with probability (|x| - 2^a) / 2^a: where the random mantissa is at least one minus that."""
    x_CP = awkward_rows()
    _, bits_CP = uniforms(x_CP)

    def naive(x, client):
        sent = np.zeros(P)
        for j, t in enumerate(x):
            if t == 0:
                continue
            below = 2.0 ** math.floor(math.log2(abs(t)))
            u = (int(bits_CP[client, j]) % 2**23) / 2**23
            up = u >= 1 - (abs(t) - below) / below
            sent[j] = math.copysign(2 * below if up else below, t)
        return sent

    agree(rs.compressors.Natural(), naive, x_CP)


@pytest.mark.parametrize("per_layer", [False, True])
def test_ternary(per_layer):
    x_CP = awkward_rows()
    u_CP, _ = uniforms(x_CP)
    edges = LAYERS if per_layer else [0, P]

    def naive(x, client):
        sent = np.zeros(P)
        for a, b in itertools.pairwise(edges):
            scale = max(abs(t) for t in x[a:b])
            for j in range(a, b):
                if u_CP[client, j] * scale < abs(x[j]):
                    sent[j] = math.copysign(scale, x[j])
        return sent

    agree(rs.compressors.Ternary(per_layer=per_layer), naive, x_CP)


# ---- with memory -----------------------------------------------------------------------------------------------


def keep(x, k):
    sent = np.zeros_like(x)
    for j in sorted(range(len(x)), key=lambda j: (-abs(x[j]), j))[:k]:
        sent[j] = x[j]
    return sent


def test_feedback():
    compressor, kept, memory = (
        rs.compressors.Feedback(rs.compressors.TopK(fraction=0.1)),
        {},
        np.zeros((C, P)),
    )
    for round in range(8):
        x_CP = rows(C, seed=round)
        sent_CP = compressor.apply(x_CP.clone(), sender(C, kept=kept, round=round))[0]
        for client in range(C):
            v = memory[client] + x_CP[client].numpy()
            sent = keep(v, K)
            memory[client] = v - sent
            np.testing.assert_allclose(sent_CP[client], sent, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("masking", [True, False])
def test_momentum_correction(masking):
    inner = rs.compressors.TopK(fraction=0.1)
    compressor = rs.compressors.MomentumCorrection(inner, momentum=0.6, masking=masking)
    kept, u, v = {}, np.zeros((C, P)), np.zeros((C, P))
    for round in range(8):
        x_CP = rows(C, seed=round)
        sent_CP = compressor.apply(x_CP.clone(), sender(C, kept=kept, round=round))[0]
        for client in range(C):
            u[client] = 0.6 * u[client] + x_CP[client].numpy()
            v[client] += u[client]
            sent = keep(v[client], K)
            v[client] -= sent
            if masking:
                u[client, sent != 0] = 0
            np.testing.assert_allclose(sent_CP[client], sent, rtol=1e-5, atol=2e-6)
