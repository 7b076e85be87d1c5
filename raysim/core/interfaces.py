"""The kinds of plug-in, one class each: what a data set, partition, model, loss, optimiser or rule must offer.

Shape letters: N all clients, C clients here, P parameters, B batch, M examples of a client, n examples of a data set.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from raysim.core.columns import Coefficient
from raysim.core.plugin import Plugin, Rate

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from raysim.core.local import Local
    from raysim.core.server import Server

Rows = dict[str, Tensor]
"""Named tensors whose first axis is the clients: optimiser state, memories."""


class Loss(Plugin):
    """What a prediction costs, example by example. It does not depend on the examples beside it."""

    outputs_per_class = True
    """Whether a model needs one output per class (else one per target column)."""

    def per_example(self, out: Tensor, y: Tensor) -> Tensor:
        """Loss of each example: ``out`` [B, ...], ``y`` [B, ...] -> [B]."""
        raise NotImplementedError

    def with_gradient(self, out_COB: Tensor, y_CB: Tensor) -> tuple[Tensor, Tensor]:
        """Loss [C, B] and d loss / d out [C, outputs, B] in closed form, for a stack of C clients.

        The outputs are the middle axis: reductions over a short last axis are several times slower on a CPU.
        """
        raise NotImplementedError

    def hits(self, out: Tensor, y: Tensor) -> Tensor | None:
        """Share of right answers of each example [B], or None where accuracy has no meaning."""
        return None


@dataclasses.dataclass
class Dataset:
    """Arrays in memory, ready for a model: floats normalised, labels int64, targets float32.

    Args:
        x_train: inputs, [n, ...], float32 (images as channels, height, width) or int64 tokens [n, length].
        y_train: labels [n] int64, next tokens [n, length] int64, or targets [n, outputs] float32.
        x_test: as x_train, never trained on.
        y_test: as y_train.
        loss: what the model's output is measured with.
        outputs: number of classes, tokens or target columns.
        groups: natural owner of each training example (speaker, writer, client), [n] int64, or None.
        augment: function (x [C, B, ...], key_C [C] int64) -> x, random and cheap, for a whole stack; None for nothing.
        optimum: parameters of the known minimiser of the whole training loss for the matching model, or None.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    loss: Loss
    outputs: int
    groups: np.ndarray | None = None
    augment: Callable[[Tensor, Tensor], Tensor] | None = None
    optimum: np.ndarray | None = None


class Data(Plugin):
    """A data set by name: ``load()`` reads or makes it. The same fields always give the same arrays."""

    def load(self) -> Dataset:
        """The arrays.

        Raises:
            DataError: files are missing or not what they should be.
        """
        raise NotImplementedError


class DataError(RuntimeError):
    """Data that cannot be read: which files were looked for, where, and how to get them."""


class Partition(Plugin):
    """Which training examples belong to which client."""

    def split(self, data: Dataset, seed: int) -> list[np.ndarray]:
        """Index vectors (int64, positions in the training set), one per client, disjoint; same seed, same split."""
        raise NotImplementedError


class Model(Plugin):
    """A network by name."""

    def build(self, data: Dataset) -> nn.Module:
        """A new ``nn.Module`` that fits the data's input shape and outputs, initialised from torch's generator."""
        raise NotImplementedError


class Optimizer(Plugin):
    """A first-order method on rows: every client's parameters are one row of x_CP, its state rows of the same length.

    ``init`` makes the state, ``update`` writes one step into ``x_CP`` and the state **in place** (they are buffers of
    the engine, reused over rounds). Written on the last axis, so that one row, a thousand rows or a server's single
    row are the same code. Any field that is a number may hold a column [C, 1] in its place, a number for every row, as
    where experiments train as one stack: ``core/columns.py`` has arithmetic for either.
    """

    searches: ClassVar[bool] = False
    """Whether how much a step computes depends on what it finds, as a line search does: then it is not compiled."""
    reported: ClassVar[tuple[str, ...]] = ()
    """State rows of width 1 that become metrics of the clients after each local training."""
    counted: ClassVar[tuple[str, ...]] = ()
    """Those of them that count: zero before each local training, even where clients keep their state."""

    lr: Rate

    def init(self, x_CP: Tensor) -> Rows:
        """State before the first step, one row per row of ``x_CP`` (any width)."""
        return {}

    def update(self, x_CP: Tensor, grad_CP: Tensor, state: Rows, lr: Coefficient) -> None:
        """One step along ``grad_CP`` (which may be overwritten) with step size ``lr`` (a number or a column [C, 1])."""
        raise NotImplementedError

    def step(self, objective: Any, x_CP: Tensor, state: Rows, lr: Coefficient) -> Tensor:
        """One step on ``objective``; returns loss_C before the step.

        The objective offers ``value_and_grad(x_CP) -> loss_C, grad_CP`` and ``value(x_CP) -> loss_C``, always on the
        same batch, and ``picked(index_A)``: the same of some clients alone.
        """
        loss_C, grad_CP = objective.value_and_grad(x_CP)
        self.update(x_CP, grad_CP, state, lr)
        return loss_C

    def accumulates(
        self, x_CP: Tensor, state: Rows, lr: Coefficient
    ) -> tuple[Tensor, Coefficient, Coefficient] | None:
        """(target, beta, alpha) if a step begins with target <- beta target + alpha gradient; None if it does not.

        A network whose backward pass can write there directly (form ``inplace``) then calls ``settle`` in place of
        ``update``.
        """
        return None

    def settle(self, x_CP: Tensor, state: Rows, lr: Coefficient) -> None:
        """What remains of a step after the gradient was accumulated into its target."""


class Rule(Plugin):
    """What clients and server exchange in a round."""

    own_models: ClassVar[bool] = False
    """Whether every client keeps a model of its own from round to round, as rows named "model"."""
    everyone: ClassVar[bool] = False
    """Whether all clients must take part in every round."""
    own_downlink: ClassVar[bool] = False
    """Whether the rule itself says in how few bits clients hear of a round, so that none are left to compress."""
    compresses: ClassVar[bool] = False
    """Whether it has clients compress what they send, after the experiment's uplink."""
    gathers: ClassVar[bool] = False
    """Whether the server looks at single clients' rows, which no noise on a sum can then protect."""

    def fit(self, clients: int, cohort: int, local: Local) -> None:
        """Raise ConfigError where the rule cannot run with so many clients, such a cohort or such local training."""

    def round(self, clients: Any, server: Server) -> Server:
        """One round: ``clients`` is a handle on this round's cohort, the result the server after the round."""
        raise NotImplementedError

    def informed(self, clients: Any, server: Server) -> Server:
        """The server with what ``models`` needs from an exchange of its own (a mean gradient): measured, never sent."""
        return server

    def models(self, cohort: Any, server: Server) -> Tensor:
        """Each client's model right before the round combines them, [C, P]: what probes look at."""
        if self.own_models:
            return cohort.train(cohort.state.rows("model", server.x_P))
        return cohort.train(server.x_P)


class Aggregator(Plugin):
    """What the server makes of all rows of a cohort, some of which may be lies."""

    keeps: ClassVar[bool] = False
    """Whether it starts from what it returned in the round before."""

    def fit(self, rows: int) -> None:
        """Raise ConfigError where it cannot work on so many rows."""

    def combine(self, rows_CP: Tensor, key: Tensor, before_P: Tensor) -> Tensor:
        """One row [P] from the rows.

        Args:
            rows_CP: the rows, in the cohort's order; left as they are.
            key: a random key of this round.
            before_P: what it returned in the round before, zero at first.
        """
        raise NotImplementedError


class Objective(Plugin):
    """What clients minimise on a batch, in place of the plain loss: a change of the batch's inputs."""

    def inputs(self, gradient: Callable[[Tensor], Tensor], x_CB: Tensor, key_C: Tensor) -> Tensor:
        """The inputs to train on instead of ``x_CB``, [C, B, ...].

        Args:
            gradient: x_CB -> gradient of each example's loss by its input, at the clients' current parameters.
            x_CB: the batch's inputs; left as they are.
            key_C: random keys, one per client and step.
        """
        raise NotImplementedError


class Topology(Plugin):
    """Who talks to whom, and with which weights."""

    varies: ClassVar[bool] = False
    """Whether the matrix changes from round to round."""

    def fit(self, clients: int) -> None:
        """Raise ConfigError where there is no such graph of so many clients."""

    def mixing(self, clients: int, round: int) -> csr_array:
        """W [clients, clients], float64: rows and columns sum to 1; row i holds the weights of i's neighbours."""
        raise NotImplementedError


class Probe(Plugin):
    """Numbers measured on evaluated rounds. A probe only looks: nothing is sent, counted or changed."""

    after: ClassVar[bool] = False
    """Whether it looks after the round; otherwise before, and replays the round's local training if it needs it."""

    def measure(self, clients: Any, rule: Rule, server: Server) -> dict[str, float]:
        """Numbers by name for the metrics; every exchange with ``measure=True``."""
        raise NotImplementedError


def as_tensor(array: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """A tensor over the same memory where that is possible; read-only arrays stay unwritten by the caller's promise."""
    if array.flags.writeable:
        return torch.from_numpy(array).to(device)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # torch warns that writing would be undefined: nobody writes
        return torch.from_numpy(array).to(device)
