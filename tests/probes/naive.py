"""Clients one after the other in double precision: what probes measure, from the definitions."""

import itertools

import numpy as np
import torch
from torch.func import functional_call
from torch.nn import functional as F

LR, STEPS = 0.2, 4


class Naive:
    """Full-batch gradient descent on every client of an experiment in which all take part.

    Args:
        sim: the experiment.
    """

    def __init__(self, sim):
        data = sim.data.load()
        self.parts = [
            (torch.from_numpy(data.x_train[i]), torch.from_numpy(data.y_train[i]))
            for i in sim.partition.split(data, sim.seed)
        ]
        self.module = sim.initial_model().double()
        self.x = torch.cat([p.detach().reshape(-1) for p in self.module.parameters()])
        self.number = len(self.parts)

    def loss(self, c, w):
        named, sizes = dict(self.module.named_parameters()), [p.numel() for p in self.module.parameters()]
        parts = {n: v.view_as(p) for (n, p), v in zip(named.items(), w.split(sizes), strict=True)}
        x, y = self.parts[c]
        out = functional_call(self.module, parts, (x.double(),))
        return (
            F.cross_entropy(out, y)
            if y.dtype == torch.int64
            else 0.5 * (out - y.double()).square().sum(1).mean()
        )

    def gradient(self, c, w):
        w = w.clone().requires_grad_()
        return torch.autograd.grad(self.loss(c, w), w)[0]

    def trained(self, c, w):
        for _ in range(STEPS):
            w = w - LR * self.gradient(c, w)
        return w

    def average(self):
        """One FedAvg round with uniform weights from ``x``; the clients' models before the averaging."""
        models = [self.trained(c, self.x) for c in range(self.number)]
        self.x = sum(models) / self.number
        return models

    def train_own(self, own):
        """Every client's own model after local training."""
        return torch.stack([self.trained(c, w) for c, w in enumerate(own)])


def deviation(naive, models):
    """The numbers of GradientDeviation."""
    mean = sum(models) / len(models)
    rows = []
    for c, w in enumerate(models):
        at_mean = naive.gradient(c, mean)
        d, apart = (naive.gradient(c, w) - at_mean).norm(), (w - mean).norm()
        rows.append([d, d**2, at_mean.norm(), apart**2, d / apart, naive.loss(c, mean)])
    d, squared, norm, drift, lipschitz, loss = np.array([[float(v) for v in r] for r in rows]).mean(0)
    return {
        "deviation": d,
        "deviation_squared": squared,
        "deviation_relative": d / norm,
        "drift": drift,
        "lipschitz": lipschitz,
        "deviation_loss": loss,
    }


def variance(naive, x):
    """The numbers of GradientVariance, cosines pair by pair."""
    grads = [naive.gradient(c, x) for c in range(naive.number)]
    mean = sum(grads) / len(grads)
    v = float(sum((g - mean).square().sum() for g in grads) / len(grads))
    some = [g for g in grads if g.norm() > 0]
    cosines = [float(F.cosine_similarity(a, b, dim=0)) for a, b in itertools.combinations(some, 2)]
    return {
        "gradient_variance": v,
        "gradient_variance_relative": v / float(mean.square().sum()),
        "gradient_cosine": float(np.mean(cosines)),
    }


def consensus(rows):
    """The numbers of Consensus."""
    mean = rows.mean(0)
    distance = float((rows - mean).square().sum(1).mean())
    return {"consensus": distance, "consensus_relative": distance / float(mean.square().sum())}
