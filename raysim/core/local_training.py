"""One call of local training: a block's clients in stacks as large as memory holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from raysim.core.batches import Batches
from raysim.core.population import cut
from raysim.core.terms import Pull, Term

if TYPE_CHECKING:
    from raysim.core.host import Host
    from raysim.core.interfaces import Optimizer
    from raysim.core.training import Trainer


@dataclass(frozen=True, kw_only=True)
class Training:
    """Trains rows where they lie.

    Args:
        host: where the clients live.
        trainer: computes their steps.
        batches: the batches of clients a to b of the block.
        start: where clients start, [P] for all or rows.
        direct: what ``Trainer.change`` takes for this start; None if it does not.
        x_CP: receives the trained rows, or what training changed; may be the rows ``start`` themselves.
        kept: clients' own rows of the optimiser's state, by name; none if they start each round anew.
        optimizer: whose steps they take.
        lr: step size.
        term: what is added to every client's loss.
        pull: a move after every step.
        change: leave in ``x_CP`` what training changed.
    """

    host: Host
    trainer: Trainer
    batches: Callable[[int, int], Batches]
    start: Tensor
    direct: Tensor | None
    x_CP: Tensor
    kept: dict[str, Tensor]
    optimizer: Optimizer
    lr: float
    term: Term | None
    pull: Pull | None
    change: bool

    def run(self, clients: int) -> dict[str, Tensor]:
        """Train all of the block's clients; what each has to report, [C] by name."""
        pieces = [self.host.shrinking(self._stack, a, b) for a, b in self.host.stacks(clients)]
        told = [numbers for piece in pieces for numbers in piece]
        return {name: torch.cat([numbers[name] for numbers in told]) for name in told[0]}

    def _stack(self, a: int, b: int) -> dict[str, Tensor]:
        """Train clients a to b at once."""
        x_CP, batches = self.x_CP[a:b], self.batches(a, b)
        optimizer, lr = cut(self.optimizer, a, b), cut(self.lr, a, b)
        if self.direct is not None and (self.direct.dim() == 1 or b - a == len(self.x_CP)):
            loss_C = self.trainer.change(x_CP, self.direct, batches, optimizer, lr)
            if loss_C is not None:
                return {"train_loss": loss_C}
        shared = self.start if self.start.dim() == 1 else None
        begin = self.start if shared is not None else self.start[a:b]
        inplace = begin.data_ptr() == x_CP.data_ptr()
        spared = begin.clone() if inplace and self._careful else begin
        if not inplace:
            x_CP.copy_(begin)
        own = {name: rows[a:b].clone() if self._careful else rows[a:b] for name, rows in self.kept.items()}
        state = own if self.host.local.keep_state else optimizer.init(x_CP)
        for name in optimizer.counted:
            state[name].zero_()
        term, pull = self.term and self.term.rows(a, b), self.pull and self.pull.rows(a, b)
        try:
            loss_C = self.trainer.train(x_CP, state, batches, optimizer, lr, shared, term, pull)
        except (MemoryError, RuntimeError):
            if spared is not begin:
                begin.copy_(spared)
            raise
        for name, rows in own.items() if self._careful else ():
            self.kept[name][a:b].copy_(rows)
        if self.change:
            x_CP.sub_(begin)
        return {"train_loss": loss_C} | {n: state[n][:, 0].clone() for n in self.optimizer.reported}

    @property
    def _careful(self) -> bool:
        """Whether memory may run out half way, as on a GPU: rows that are kept must survive the retry."""
        return self.host.device.type != "cpu"
