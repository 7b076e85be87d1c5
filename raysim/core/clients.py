"""Clients: a rule's handle on this round's cohort, and the ledger of what it sends.

The exchange calls are the only places where data passes between clients and server, so they do the accounting: each
client uploads its row, 32 bits a number or what the uplink's transforms make of it, and downloads every shared tensor
that it has not had this round (see ``channel.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from raysim.core import streams
from raysim.core.channel import Channel, Watched, Wire
from raysim.core.cohort import Cohort
from raysim.core.cohorts import Plan
from raysim.core.fleet import Fleet
from raysim.core.host import Partial
from raysim.core.mixing import Mixing
from raysim.core.plugin import ConfigError
from raysim.core.reduction import Tree
from raysim.core.sending import BITS

if TYPE_CHECKING:
    from raysim.core.server import Server
    from raysim.core.transforms import Compressor

ROWS_LIMIT = 4 << 30  # bytes of client rows that `rows` will gather in one place


class Clients:
    """This round's cohort.

    Args:
        fleet: the hosts.
        plan: cohort, blocks and weights (number of examples).
        P: parameters of the model, to refuse gathers that cannot fit before they start.
        total: clients of the experiment; None where the cohort is all of them.
        channel: what messages go through.
        state: the server's, where the channel keeps what it remembers.
    """

    def __init__(
        self,
        fleet: Fleet,
        plan: Plan,
        P: int,
        total: int | None = None,
        channel: Channel = Channel(),  # noqa: B008 (it is frozen)
        state: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._fleet, self._plan, self._P = fleet, plan, P
        self._total = len(plan.ids_C) if total is None else total
        self.reports: dict[str, np.ndarray] = {}
        self.notes: dict[str, float] = {}
        self.bits_up = 0
        self._bits_mixed = 0
        self._sent_C = np.zeros(len(plan.ids_C))
        self._wire = Wire(channel, plan.ids_C, plan.round, self._total, state or {}, self.reports, self.note)

    @property
    def bits_down(self) -> int:
        """Bits that clients received so far."""
        return self._wire.bits_down + self._bits_mixed

    def settled(self, server: Server) -> Server:
        """The server after the round with what the channel remembers."""
        self._wire.settle()
        kept = self._wire.kept
        return server.at(server.x_P, **kept) if kept else server

    def key(self, purpose: str) -> Tensor:
        """A random key of this round for the server."""
        return streams.key(self._wire.channel.seed, self.round, "server", purpose)

    @property
    def round(self) -> int:
        """This round, from 0."""
        return self._plan.round

    @property
    def ids(self) -> np.ndarray:
        """The cohort, in its fixed order."""
        return self._plan.ids_C

    @property
    def weights(self) -> np.ndarray:
        """Number of examples of each client of the cohort."""
        return self._plan.weight_C

    @property
    def number(self) -> int:
        """Number of clients in the cohort."""
        return len(self._plan.ids_C)

    @property
    def lr(self) -> float:
        """Step size of the clients' local training in this round."""
        return self._plan.lr

    @property
    def total(self) -> int:
        """Number of clients in the experiment, in this cohort or not."""
        return self._total

    def mean(
        self,
        function: Callable[..., Any],
        *shared: Any,
        uniform: bool = False,
        measure: bool = False,
        compressor: Compressor | None = None,
    ) -> Any:
        """Mean over the cohort of the rows that ``function(cohort, *shared)`` returns.

        Args:
            function: a client function; may return several tensors of rows as a tuple.
            shared: values for all clients; tensors are counted as downloads, of a ``Table`` one row.
            uniform: weigh all clients alike rather than by their number of examples.
            measure: look, but send nothing and change nothing: no bits, and rows that clients keep stay as they are.
            compressor: what the rule itself has clients send their rows by, after the experiment's uplink.

        Returns:
            The mean row [P], or a tuple of means.
        """
        weight_C = np.ones(self.number) if uniform else self._plan.weight_C
        plan = replace(self._plan, weight_C=weight_C / weight_C.sum())
        return self._reduced(function, shared, plan, "mean", measure, compressor=compressor, equal=uniform)

    def sum(
        self,
        function: Callable[..., Any],
        *shared: Any,
        measure: bool = False,
        compressor: Compressor | None = None,
    ) -> Any:
        """Plain sum over the cohort of the rows that ``function`` returns; arguments as for ``mean``."""
        return self._reduced(function, shared, self._plan, "sum", measure, compressor=compressor, equal=True)

    def rows(
        self,
        function: Callable[..., Any],
        *shared: Any,
        width: int | None = None,
        measure: bool = False,
        compressor: Compressor | None = None,
    ) -> Any:
        """All rows [C, width] in the order of ``ids``, for rules that cannot do with a sum.

        Args:
            function: a client function.
            shared: values for all clients.
            width: numbers in a row, where it is not P.
            measure: look, but send nothing and change nothing.
            compressor: as for ``mean``.

        Raises:
            ConfigError: they would take more than 4 GB in one place.
        """
        need = self.number * (width or self._P) * 4
        if need > ROWS_LIMIT:
            raise ConfigError(
                f"Gathering the rows of {self.number} clients needs {need / 1e9:.1f} GB in one place, above the limit "
                f"of {ROWS_LIMIT / 1e9:.1f} GB. Use a smaller cohort or model, or a rule that works on sums."
            )
        partials = self._exchange(function, shared, self._plan, "rows", measure, compressor=compressor)
        columns = zip(*[block for p in partials for block in p.rows], strict=True)
        return _unwrap(tuple(torch.cat([torch.as_tensor(r).cpu() for r in column]) for column in columns))

    def run(self, function: Callable[..., Any], *shared: Any, look: bool = False) -> Any:
        """Run ``function`` on the clients and send nothing back: they change their own rows.

        Args:
            function: a client function.
            shared: values for all clients.
            look: return the uniform mean of the rows that it returns, to look at while they are in the cache: nobody
                sends anything for it.
        """
        if not look:
            self._exchange(function, shared, self._plan, "none")
            return None
        plan = replace(self._plan, weight_C=np.full(self.number, 1 / self.number))
        return self._reduced(function, shared, plan, "mean", sends=False)

    def mix(self, name: str, matrix_CC: csr_array, bits_C: np.ndarray | None = None) -> None:
        """Rows ``name`` that clients keep become W times them: x_i <- sum_j w_ij x_j, each edge one message.

        Args:
            name: of the rows; every client must have them.
            matrix_CC: W; its k-th row and column belong to the cohort's k-th lowest id.
            bits_C: bits that each client's row takes to send, in increasing order of ids; None for 32 a number.
        """
        mixing = Mixing.of(matrix_CC, np.sort(self.ids))
        width = self._fleet.mix(name, mixing)
        bits_C = np.full(self.number, 32 * width) if bits_C is None else bits_C
        bits = int(np.dot(mixing.messages(), bits_C))
        self.bits_up, self._bits_mixed = self.bits_up + bits, self._bits_mixed + bits

    def best(
        self, score: Callable[..., Tensor], name: str, *shared: Any, groups: np.ndarray | None = None
    ) -> Any:
        """The client with the lowest score, and its row ``name``; or the best of every group.

        Args:
            score: client function that returns a score for each client, [k]; lower is better, ties go to the lower id.
            name: of the rows that clients keep.
            shared: values for all clients.
            groups: group of each client, in the order of ``ids``; None for a single group.

        Returns:
            ids [G], rows [G, P] and scores [G] of the winners, by increasing group.
        """
        score_C = self.rows(_as_rows, score, *shared, width=1)[:, 0].numpy()
        group_C = np.zeros(self.number, np.int64) if groups is None else groups
        order = np.lexsort((self.ids, score_C, group_C))
        first = np.r_[True, np.diff(group_C[order]) != 0]
        winners = order[first]
        return self.ids[winners], self.fetch(name, self.ids[winners]), score_C[winners]

    def fetch(self, name: str, ids: np.ndarray) -> Tensor:
        """Rows ``name`` that these clients keep, sent to the server, [len(ids), P]."""
        rows_KP = self._fleet.fetch(name, ids)
        self.bits_up += 32 * rows_KP.numel()
        return rows_KP

    def note(self, name: str, value: float) -> None:
        """A number about the whole round for its metrics."""
        self.notes[name] = float(value)

    def _reduced(
        self,
        function: Callable[..., Any],
        shared: tuple[Any, ...],
        plan: Plan,
        reduce: str,
        measure: bool = False,
        sends: bool = True,
        compressor: Compressor | None = None,
        equal: bool = False,
    ) -> Any:
        total = _summed(self._exchange(function, shared, plan, reduce, measure, sends, compressor), plan)
        if sends and not measure:
            share = 1.0 if reduce == "sum" else float(plan.weight_C.max())
            total = self._wire.received(total, share, equal)
        return _unwrap(total)

    def _exchange(
        self,
        function: Callable[..., Any],
        shared: tuple[Any, ...],
        plan: Plan,
        reduce: str,
        measure: bool = False,
        sends: bool = True,
        compressor: Compressor | None = None,
    ) -> list[Partial]:
        values = self._wire.down(function, shared, free=measure)
        call, sent = function, values
        if sends and not measure and reduce != "none":
            watched = lambda weight_C, squares: self._watched(function, values, weight_C, squares)
            call, sent = self._wire.up(function, values, compressor, watched)
        partials = self._fleet.exchange(call, sent, plan, reduce, measure)
        if measure:
            return partials
        for name in partials[0].reports:
            self.reports[name] = np.concatenate([p.reports[name] for p in partials])
        if call is function:
            self.bits_up += 32 * partials[0].width * self.number * sends
        else:
            self._wire.sent(partials[0].width, any(p.keeps for p in partials))
            self._sent_C += self.reports[BITS]
            self.reports[BITS] = self._sent_C
            self.bits_up += int(sum(float(p.reports[BITS].sum()) for p in partials))
        return partials

    def _watched(
        self, function: Callable[..., Any], shared: tuple[Any, ...], weight_C: np.ndarray, squares: bool
    ) -> tuple[Tensor, ...]:
        """Weighted means of what clients are about to send, and of its squares: nobody sends anything for it."""
        plan = replace(self._plan, weight_C=weight_C.astype(np.float64))
        return _summed(self._fleet.exchange(Watched(function, squares), shared, plan, "mean", True), plan)

    def measured(self) -> dict[str, float]:
        """Weighted mean over the cohort of every per-client report, in float64 and in the cohort's order; and notes."""
        weight = self._plan.weight_C / self._plan.weight_C.sum()
        means = {
            name: float((value.astype(np.float64) * weight).sum()) for name, value in self.reports.items()
        }
        return means | self.notes


def _as_rows(cohort: Cohort, score: Callable[..., Tensor], *shared: Any) -> Tensor:
    return score(cohort, *shared).unsqueeze(1)


def _summed(partials: list[Partial], plan: Plan) -> tuple[Tensor, ...]:
    tree = Tree(plan.blocks)
    for partial in partials:
        for node, value in partial.nodes.items():
            tree.add(node, tuple(torch.as_tensor(v).cpu() for v in value))
    return tree.total()


def _unwrap(value: tuple[Any, ...]) -> Any:
    return value[0] if len(value) == 1 else value
