"""Senders made by hand, and rows to send."""

import numpy as np
import torch

from raysim.core import streams
from raysim.core.sending import Sender

SHAPES = [torch.Size(s) for s in ((7, 9), (7,), (4, 3, 2), (4,), ())]
P = sum(s.numel() for s in SHAPES)


def sender(C, shapes=SHAPES, kept=None, round=0, first=0, seed=0):
    """Clients first..first+C-1, who keep what they remember in ``kept``, by client and name."""
    kept = {} if kept is None else kept

    def memory(name, fill_P):
        rows = torch.stack([kept.get((first + c, name), fill_P) for c in range(C)])
        for c in range(C):
            kept[first + c, name] = rows[c]
        return rows

    ids = torch.arange(first, first + C)
    return Sender(ids.numpy(), streams.key(seed, round, ids), memory, list(shapes), (100, seed))


def rows(C, n=P, seed=0):
    """Normal rows of unlike magnitude."""
    rng = np.random.Generator(np.random.PCG64(seed))
    return torch.from_numpy((rng.standard_normal((C, n)) * rng.uniform(0.1, 3, n)).astype(np.float32))


def in_blocks(compressor, x_CP, size, shapes=SHAPES, rounds=1):
    """What is received when the clients send in blocks of this size, over several rounds with the same rows."""
    kept, received = {}, None
    for round in range(rounds):
        received = torch.cat(
            [
                compressor.apply(
                    x_CP[a : a + size].clone(), sender(len(x_CP[a : a + size]), shapes, kept, round, a)
                )[0]
                for a in range(0, len(x_CP), size)
            ]
        )
    return received


def hoeffding(draws, confidence, width=2.0):
    """How far a mean of draws from an interval of that width is from its expectation at most, both sides."""
    return width * np.sqrt(np.log(2 / (1 - confidence)) / (2 * draws))
