"""Local training of a stack of clients: the step loop, in the forms that compute the same numbers in different ways.

=========  ====================================================================================================
loop       one client after the other through autograd; the reference, and the fastest for convolutions on a CPU
stacked    all clients at once, ``vmap`` over a flat vector; the form for GPUs and for anything that is not a chain
inplace    chains of linear layers by hand, the backward pass writing into weights or momentum (see ``chain.py``)
compiled   ``stacked`` with the whole local training of a block compiled by torch
=========  ====================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from raysim.core import streams
from raysim.core.batches import Batch, Batches
from raysim.core.columns import Coefficient, add, is_one, is_zero
from raysim.core.interfaces import Objective, Optimizer, Rows
from raysim.core.population import cut
from raysim.core.task import Task
from raysim.core.terms import Pull, Term

FORMS = ("loop", "stacked", "inplace", "compiled")


@dataclass
class BatchObjective:
    """The clients' losses on this step's batch, as an optimiser asks for them.

    Args:
        gradient: (x_CP, batch) -> loss_C, grad_CP.
        evaluate: (x_CP, batch) -> loss_C.
        batch: this step's examples.
        term: what the rule adds to the loss.
    """

    gradient: Callable[[Tensor, Batch], tuple[Tensor, Tensor]]
    evaluate: Callable[[Tensor, Batch], Tensor]
    batch: Batch
    term: Term | None = None
    loss_C: Tensor | None = None  # at the first point asked for, without the term: what is reported

    def value_and_grad(self, x_CP: Tensor) -> tuple[Tensor, Tensor]:
        """Loss [C] and gradient [C, P] at ``x_CP``."""
        loss_C, grad_CP = self.gradient(x_CP, self.batch)
        if self.loss_C is None:
            self.loss_C = loss_C
        if self.term is None:
            return loss_C, grad_CP
        self.term.add_gradient(x_CP, grad_CP)
        return loss_C + self.term.value(x_CP), grad_CP

    def value(self, x_CP: Tensor) -> Tensor:
        """Loss [C] at ``x_CP``."""
        loss_C = self.evaluate(x_CP, self.batch)
        return loss_C if self.term is None else loss_C + self.term.value(x_CP)

    def picked(self, index_A: Tensor) -> BatchObjective:
        """The same of the clients ``index_A`` (int64, increasing) alone, on the same examples and random keys."""
        if len(index_A) == len(self.batch.y_CB):
            return self
        batch, cut = self.batch, lambda t: None if t is None else t[index_A]
        batch = Batch(batch.x_CB[index_A], batch.y_CB[index_A], cut(batch.weight_CB), cut(batch.key_C))
        if (term := self.term) is not None:
            rows = lambda v: v[index_A] if isinstance(v, Tensor) and v.dim() == 2 else v
            term = Term(rows(term.scale), rows(term.linear))
        return BatchObjective(self.gradient, self.evaluate, batch, term)


class Trainer:
    """Runs the local steps of stacks of clients in one form.

    Args:
        task: network and loss.
        form: one of FORMS.
        objective: what changes the inputs of every batch, or None.
        folds: whether the in-place form folds a term's strength into its factor of the parameters even where every
            row has a strength of its own.
    """

    def __init__(
        self, task: Task, form: str, objective: Objective | None = None, folds: bool = False
    ) -> None:
        self.task, self.form, self.objective, self.folds = task, form, objective, folds
        self._grad = torch.empty(0)
        self._compiled: dict[tuple, Callable] = {}

    def uncompiled(self) -> Trainer:
        """This trainer, or one that computes the same without compiling: for an optimiser made for one round."""
        return Trainer(self.task, "stacked", self.objective) if self.form == "compiled" else self

    def gradient(self, x_CP: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss and gradient of every row in this form; the gradient may live in a buffer that the next call reuses."""
        if self.form in ("inplace", "loop"):
            if self._grad.shape[0] < len(x_CP) or self._grad.device != x_CP.device:
                self._grad = torch.empty_like(x_CP, memory_format=torch.contiguous_format)
            compute = self.task.chained if self.form == "inplace" else self.task.looped
            return compute(x_CP, batch, self._grad[: len(x_CP)])
        return self.task.stacked(x_CP, batch)

    def value(self, x_CP: Tensor, batch: Batch) -> Tensor:
        """Loss [C] of every row in this form, to the bit what ``gradient`` says of the same rows."""
        if self.form == "inplace":
            assert self.task.chain is not None
            return self.task.chain.value(self.task.chain.views(x_CP), batch)
        return self.task.value(x_CP, batch) if self.form == "loop" else self.task.stacked_value(x_CP, batch)

    def perturbed(self, x_CP: Tensor, batch: Batch) -> Batch:
        """A step's batch with the inputs that the objective makes of it at the parameters ``x_CP``.

        Whatever the step evaluates, it evaluates on this one. A batch without keys (all data) stays as it is.
        """
        if self.objective is None or batch.key_C is None:
            return batch
        gradient = lambda x_CB: self.input_gradient(x_CP, replace(batch, x_CB=x_CB))
        key_C = streams.key(batch.key_C, "objective")
        return replace(batch, x_CB=self.objective.inputs(gradient, batch.x_CB, key_C))

    def input_gradient(self, x_CP: Tensor, batch: Batch) -> Tensor:
        """Gradient of each example's loss by its input, [C, B, ...], in this form."""
        if self.form == "inplace":
            assert self.task.chain is not None
            return self.task.chain.input_gradient(self.task.chain.views(x_CP), batch)
        if self.form == "loop":
            return self.task.input_gradient_looped(x_CP, batch)
        return self.task.input_gradient(x_CP, batch)

    @torch.no_grad()
    def train(
        self,
        x_CP: Tensor,
        state: Rows,
        batches: Batches,
        optimizer: Optimizer,
        lr: Coefficient,
        start_P: Tensor | None = None,
        term: Term | None = None,
        pull: Pull | None = None,
    ) -> Tensor:
        """All local steps of a stack.

        Args:
            x_CP: where each client starts; overwritten with where it ends.
            state: optimiser state, overwritten likewise.
            batches: their batches.
            optimizer: the local optimiser.
            lr: its step size in this round, a number or a column [C, 1] (as may be the optimiser's other numbers).
            start_P: what every row of ``x_CP`` is, where they are all the same.
            term: what is added to every client's loss.
            pull: where every step is followed by a move.

        Returns:
            Each client's mean loss over its steps, [C], without the term.
        """
        folds = term is None or self.folds or not isinstance(term.scale, Tensor)
        if self.form == "inplace" and folds and optimizer.accumulates(x_CP, state, lr) is not None:
            total_C = self._train_inplace(x_CP, state, batches, optimizer, lr, start_P, term, pull)
        elif self.form == "compiled" and pull is None and not optimizer.searches:
            total_C = self._train_compiled(x_CP, state, batches, optimizer, lr, term)
        else:
            total_C = self._train_steps(x_CP, state, batches, optimizer, lr, term, pull)
        return total_C / torch.from_numpy(batches.steps_C).to(total_C)

    @torch.no_grad()
    def change(
        self, x_CP: Tensor, start: Tensor, batches: Batches, optimizer: Optimizer, lr: Coefficient
    ) -> Tensor | None:
        """All local steps from one start; ``x_CP`` becomes what they changed, not where they ended.

        The start is [P], or [T, P] for rows that begin with each of T experiments in turn and see the same examples.

        A first step that is nothing but -lr times the gradient is written as such: a client with a single step never
        has a row of parameters at all, which saves three of five passes over memory.

        Returns:
            Each client's mean loss over its steps, [C]; None, and nothing done, where the form or the optimiser's first
            step is not of that kind, or an objective has to look at the parameters.
        """
        chain = self.task.chain
        if self.form != "inplace" or chain is None or self.objective or cut(optimizer, 0, 1).init(x_CP[:1]):
            return None
        plan = optimizer.accumulates(x_CP, {}, lr)
        if plan is None or plan[0] is not x_CP or not is_one(plan[1]) or int(batches.steps_C[-1]) == 0:
            return None
        one = start.dim() == 1
        at = chain.views(start.expand(len(x_CP), -1)) if one else chain.cycled(start, len(x_CP))
        total_C = chain.accumulate(at, chain.views(x_CP), 0, plan[2], batches.at(0))
        if batches.steps > 1:
            more = x_CP[: batches.active(1)]
            more = (more if one else more.view(-1, *start.shape)).add_(start)
            for C, steps in batches.segments(1):
                weights, alpha = chain.views(x_CP[:C]), cut(plan[2], 0, C)
                for step in steps:
                    total_C[:C] += chain.accumulate(weights, weights, 1, alpha, batches.at(step))
            more.sub_(start)
            total_C /= torch.from_numpy(batches.steps_C).to(total_C)
        return total_C

    def _train_steps(
        self,
        x_CP: Tensor,
        state: Rows,
        batches: Batches,
        optimizer: Optimizer,
        lr: Coefficient,
        term: Term | None,
        pull: Pull | None,
    ) -> Tensor:
        total_C = x_CP.new_zeros(len(x_CP))
        for step in range(batches.steps):
            C = batches.active(step)
            batch = self.perturbed(x_CP[:C], batches.at(step))
            objective = BatchObjective(self.gradient, self.value, batch, term and term.rows(0, C))
            stepping, rate = cut(optimizer, 0, C), cut(lr, 0, C)
            loss_C = stepping.step(objective, x_CP[:C], {n: r[:C] for n, r in state.items()}, rate)
            total_C[:C] += loss_C if objective.loss_C is None else objective.loss_C
            if pull is not None:
                pull.rows(0, C).apply(x_CP[:C])
        return total_C

    def _train_inplace(
        self,
        x_CP: Tensor,
        state: Rows,
        batches: Batches,
        optimizer: Optimizer,
        lr: Coefficient,
        start_P: Tensor | None,
        term: Term | None,
        pull: Pull | None,
    ) -> Tensor:
        chain, total_C = self.task.chain, x_CP.new_zeros(len(x_CP))
        assert chain is not None
        for C, steps in batches.segments():
            x, rows = x_CP[:C], {n: r[:C] for n, r in state.items()}
            stepping, rate = cut(optimizer, 0, C), cut(lr, 0, C)
            plan = stepping.accumulates(x, rows, rate)
            assert plan is not None
            target, beta, alpha = plan
            more = term and term.rows(0, C)
            if more is not None and target is x:  # x <- beta x - lr (grad + s x + b)
                beta = beta + alpha * more.scale
            weights, targets = chain.views(x), chain.views(target)
            for step in steps:
                at = chain.views(start_P.expand(C, -1)) if step == 0 and start_P is not None else weights
                batch = self.perturbed(x, batches.at(step))
                total_C[:C] += chain.accumulate(at, targets, beta, alpha, batch)
                if more is not None:
                    _add_term(more, x, target, alpha)
                stepping.settle(x, rows, rate)
                if pull is not None:
                    pull.rows(0, C).apply(x)
        return total_C

    def _train_compiled(
        self,
        x_CP: Tensor,
        state: Rows,
        batches: Batches,
        optimizer: Optimizer,
        lr: Coefficient,
        term: Term | None,
    ) -> Tensor:
        from raysim.core.compiled import train_compiled

        perturbed = self.perturbed if self.objective else None
        return train_compiled(self.task, self._compiled, x_CP, state, batches, optimizer, lr, term, perturbed)


def _add_term(term: Term, x_CP: Tensor, target_CP: Tensor, alpha: Coefficient) -> None:
    """Target += alpha times the term's gradient; where the target is x itself, s was folded into its factor."""
    if target_CP is not x_CP and not is_zero(term.scale):
        add(target_CP, x_CP, alpha * term.scale)
    if term.linear is not None:
        add(target_CP, term.linear, alpha)
