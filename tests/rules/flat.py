"""Clients by hand: one after the other, torch.nn and autograd, parameters as one flat vector."""

import torch
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector, vector_to_parameters


class ByHand:
    """The clients of an experiment with stored batch order.

    Args:
        sim: the experiment.
    """

    def __init__(self, sim):
        data = sim.data.load()
        self.shares = sim.partition.split(data, sim.seed)
        self.sizes = [len(s) for s in self.shares]
        self.model = sim.initial_model(data)
        self.start = parameters_to_vector(self.model.parameters()).detach()
        self.x, self.y = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
        self.loss = (
            F.cross_entropy if self.y.dtype == torch.int64 else lambda out, y: 0.5 * F.mse_loss(out, y)
        )

    def gradient(self, client, at, part=slice(None)):
        """Gradient of a client's mean loss over a part of its examples."""
        vector_to_parameters(at, self.model.parameters())
        rows = torch.from_numpy(self.shares[client][part])
        self.model.zero_grad()
        self.loss(self.model(self.x[rows]), self.y[rows]).backward()
        return parameters_to_vector(p.grad for p in self.model.parameters())

    def batches(self, client, local):
        """The parts of a client's examples that its local steps see, in order."""
        if local.batch_size is None:
            return [slice(None)] * (local.steps or local.epochs)
        size, n = local.batch_size, self.sizes[client]
        epoch = [slice(a, a + size) for a in range(0, n, size)]
        return epoch * local.epochs if local.steps is None else (epoch * local.steps)[: local.steps]


def average(vectors, weights=None):
    """Weighted mean of vectors, in double precision."""
    weights = torch.ones(len(vectors)) if weights is None else torch.as_tensor(weights)
    stacked = torch.stack(list(vectors)).double()
    return ((weights.double() / weights.double().sum()) @ stacked).float()
