"""A host: the clients that live in one process, on one device. Every actor wraps one; in process there is just one."""

from __future__ import annotations

import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from raysim.core import streams
from raysim.core.batches import Batches
from raysim.core.cohort import Cohort, Table
from raysim.core.cohorts import Plan, Shards
from raysim.core.execution import examples_of
from raysim.core.interfaces import Dataset, as_tensor
from raysim.core.layout import aligned
from raysim.core.local import Local
from raysim.core.mixing import Mixing, mix
from raysim.core.plugin import ConfigError
from raysim.core.reduction import Node, Tree
from raysim.core.rows import RowStore
from raysim.core.task import Task
from raysim.core.training import Trainer

T = TypeVar("T")
DRAW = 1 << 20  # examples whose places are drawn at once: few calls, and no more than some megabytes
NOBODY = np.empty(0, np.int64)
CHUNK = 1000  # test examples evaluated at once; results are summed in the order of chunks


class ClientError(RuntimeError):
    """Code that ran for a client failed: which client, which round, and the original traceback."""


@dataclass
class Setup:
    """What a host is built from: an experiment with its data loaded and every choice made.

    Args:
        dataset: arrays, the training ones stored client after client.
        shards: which of them belong to which client.
        module: the network, as initialised.
        local: local training.
        seed: of the experiment.
        form: execution form (see ``training.FORMS``).
    """

    dataset: Dataset
    shards: Shards
    module: nn.Module
    local: Local
    seed: int
    form: str

    def __post_init__(self) -> None:
        """An objective changes inputs along a gradient, which tokens do not have."""
        kind, objective = self.dataset.x_train.dtype, self.local.objective
        if objective is not None and not np.issubdtype(kind, np.floating):
            raise ConfigError(
                f"Local.objective {type(objective).__name__} changes the inputs a little at a time, but this data "
                f"set's inputs are tokens ({kind}). Use data with inputs of real numbers, or leave the objective out."
            )


@dataclass
class Partial:
    """What one host contributes to an exchange.

    Args:
        nodes: sums over its blocks, as nodes of the tree.
        rows: the rows themselves, block by block, where asked for.
        reports: per-client numbers, in the order of its clients.
        width: floats that each client's row holds.
        keeps: whether clients here keep rows from round to round.
    """

    nodes: dict[Node, tuple[Any, ...]] = field(default_factory=dict)
    rows: list[Any] = field(default_factory=list)
    reports: dict[str, np.ndarray] = field(default_factory=dict)
    width: int = 0
    keeps: bool = False


class Host:
    """Clients of one process: their data, their rows, and the buffers they train in.

    Args:
        setup: the experiment, ready to run.
        device: where to compute.
    """

    def __init__(self, setup: Setup, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.seed, self.local = setup.seed, setup.local
        self.task = Task(setup.module, setup.dataset.loss, self.device)
        self.trainer = Trainer(self.task, setup.form, self.local.objective)
        data = setup.dataset
        self.examples = examples_of(data, setup.shards, self.device)
        self.test = aligned(as_tensor(data.x_test, self.device)), as_tensor(data.y_test, self.device)
        self.rows = RowStore(self.device)
        self.stack: int | None = None
        self.width = self._fixed_width() if setup.form == "compiled" else None
        self._buffer = torch.empty(0, self.task.P)
        self._drawn: tuple[np.ndarray, int, int, Batches] | None = None

    def _fixed_width(self) -> int:
        largest = int(self.examples.shards.sizes_N.max())
        return largest if self.local.batch_size is None else min(self.local.batch_size, largest)

    # ---- exchanges -------------------------------------------------------------------------------------------

    def exchange(
        self,
        function: Callable[..., Any],
        shared: tuple[Any, ...],
        plan: Plan,
        reduce: str = "mean",
        measure: bool = False,
    ) -> Partial:
        """Run a client function on this host's blocks of a round.

        Args:
            function: called with each block's Cohort and the shared values; returns rows [k, P] (or a tuple of such).
            shared: the values the rule passed, tensors on any device.
            plan: this host's part of the cohort; its weights are used as they are.
            reduce: "mean" sums the rows by weight, "sum" plainly, "rows" returns them, "none" drops them.
            measure: leave the clients' rows as they are.

        Raises:
            ClientError: the function failed for a client.
        """
        self.rows.admit(plan.ids_C)
        shared = tuple(self._here(v) for v in shared)
        partial, tree = Partial(), Tree(plan.blocks)
        reports: dict[str, list[Tensor]] = {}
        for b in range(len(plan.bounds) - 1):
            cohort = Cohort(self, plan, int(plan.bounds[b]), int(plan.bounds[b + 1]), measure)
            result = self._call(function, cohort, shared)
            cohort.delivered(result)
            cohort.state.commit()
            for name, value_C in cohort.reports.items():
                reports.setdefault(name, []).append(value_C)
            if reduce != "none":
                self._collect(partial, tree, plan, b, result, reduce)
        partial.nodes = tree.nodes
        partial.reports = {name: torch.cat(parts).cpu().numpy() for name, parts in reports.items()}
        partial.keeps = bool(self.rows.tensors)
        return partial

    def _here(self, value: Any) -> Any:
        if isinstance(value, Table):
            return replace(value, rows_GP=self._here(value.rows_GP))
        return aligned(value.to(self.device)) if isinstance(value, Tensor) else value

    def mix(
        self, name: str, mixing: Mixing, halo_ids: np.ndarray = NOBODY, halo_HP: Tensor | None = None
    ) -> None:
        """Rows ``name`` of the mixing's clients become weighted sums; the halo: neighbours' rows from other hosts."""
        mix(self.rows, name, mixing, halo_ids, halo_HP)

    def _collect(self, partial: Partial, tree: Tree, plan: Plan, b: int, result: Any, reduce: str) -> None:
        parts = result if isinstance(result, tuple) else (result,)
        partial.width = sum(int(p[0].numel()) for p in parts)
        if reduce == "rows":
            partial.rows.append(tuple(p.clone() for p in parts))
            return
        piece = slice(int(plan.bounds[b]), int(plan.bounds[b + 1]))
        weight = torch.from_numpy(plan.weight_C[piece]).to(self.device, torch.float32)
        if reduce == "sum":
            weight = torch.ones_like(weight)
        tree.add(
            (0, plan.first + b), tuple(torch.mv(p.flatten(1).t(), weight).view(p.shape[1:]) for p in parts)
        )

    def _call(self, function: Callable[..., Any], cohort: Cohort, shared: tuple[Any, ...]) -> Any:
        try:
            return function(cohort, *shared)
        except (MemoryError, torch.OutOfMemoryError, ConfigError):
            raise
        except Exception as error:
            raise ClientError(self._blame(function, cohort, shared, error)) from None

    def _blame(
        self, function: Callable[..., Any], cohort: Cohort, shared: tuple[Any, ...], error: Exception
    ) -> str:
        """Which client failed: each is tried alone; a failure of the stack as such names them all."""
        who = f"clients {cohort.ids_C[0]}..{cohort.ids_C[-1]} (as one stack; none of them alone)"
        for c, i in enumerate(cohort.ids_C):
            alone = Cohort(self, cohort._plan, cohort._begin + c, cohort._begin + c + 1, measure=True)
            try:
                function(alone, *(_row(v, c, len(cohort)) for v in shared))
            except Exception as own:
                who, error = f"client {i}", own
                break
        trace = "".join(traceback.format_exception(error, chain=False)).rstrip()
        return f"{type(error).__name__} for {who} in round {cohort.round}: {error}\n\n{trace}"

    def batches(self, plan: Plan, begin: int, end: int) -> Batches:
        """This round's batches of clients begin..end-1 of the plan, drawn for many blocks at once."""
        if (
            self._drawn is None
            or self._drawn[0] is not plan.ids_C
            or not self._drawn[1] <= begin < end <= self._drawn[2]
        ):
            sizes = self.examples.shards.sizes_N[plan.ids_C[begin:]]
            numbers = self.local.steps_of(sizes) * np.minimum(sizes, self.local.batch_size or sizes)
            many = int(np.searchsorted(np.cumsum(numbers), DRAW))
            last = max(end, min(len(plan.ids_C), begin + many))
            ids = plan.ids_C[begin:last]
            key_C = streams.key(self.seed, plan.round, "client", torch.from_numpy(ids).to(self.device))
            keys = bool(self.task.dropouts) or self.local.objective is not None
            drawn = Batches(self.local, self.examples, ids, key_C, self.width, keys)
            self._drawn = (plan.ids_C, begin, last, drawn)
        _, first, _, drawn = self._drawn
        return drawn.part(begin - first, end - first, self.width)

    # ---- training buffers ------------------------------------------------------------------------------------

    def buffer(self, rows: int) -> Tensor:
        """Rows [rows, P] to train in; the same memory every time."""
        if len(self._buffer) < rows:
            self._buffer = torch.empty(rows, self.task.P, device=self.device)
        return self._buffer[:rows]

    def stacks(self, rows: int) -> Iterator[tuple[int, int]]:
        """Pieces of a block that are trained at once: all of it, unless memory once ran out."""
        a = 0
        while a < rows:
            b = min(rows, a + (self.stack or rows))
            yield a, b
            a = b

    def shrinking(self, attempt: Callable[[int, int], T], a: int, b: int) -> list[T]:
        """``attempt(a, b)``; out of memory, the two halves instead, and smaller stacks from here on."""
        try:
            return [attempt(a, b)]
        except (MemoryError, RuntimeError) as error:
            if b - a == 1 or not out_of_memory(error):
                raise
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        half = a + (b - a + 1) // 2
        if self.stack is None or self.stack > half - a:
            self.stack = half - a
            warnings.warn(
                f"Out of memory with {b - a} clients at once on {self.device}: going on with stacks of {self.stack}.",
                ResourceWarning,
                stacklevel=2,
            )
        return self.shrinking(attempt, a, half) + self.shrinking(attempt, half, b)

    # ---- evaluation and timing -------------------------------------------------------------------------------

    def evaluate(self, x_P: Tensor, chunks: list[int]) -> list[tuple[float, float | None, int]]:
        """Loss sum, hit sum and number of examples of each chunk of the test set."""
        x, y = self.test
        x_P = aligned(x_P.to(self.device))
        parts = [slice(c * CHUNK, (c + 1) * CHUNK) for c in chunks]
        return [self.task.evaluate(x_P, x[s], y[s]) for s in parts]

    def time_form(self, form: str, plan: Plan, x_P: Tensor) -> float:
        """Seconds that the first block's local training takes in a form, once warm; infinity where it fails."""
        before, self.trainer = self.trainer, Trainer(self.task, form, self.local.objective)
        self.width, self._drawn = self._fixed_width() if form == "compiled" else None, None
        try:
            self._train_once(plan, x_P.to(self.device))
            begin = time.perf_counter()
            self._train_once(plan, x_P.to(self.device))
            return time.perf_counter() - begin
        except (RuntimeError, NotImplementedError, AssertionError, ValueError):
            return float("inf")
        finally:
            self.trainer, self.width, self._drawn = before, None, None

    def _train_once(self, plan: Plan, x_P: Tensor) -> None:
        rows = int(plan.bounds[1])
        x_CP, optimizer = self.buffer(rows).copy_(x_P), self.local.optimizer
        self.trainer.train(x_CP, optimizer.init(x_CP), self.batches(plan, 0, rows), optimizer, 0.0)
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def set_form(self, form: str) -> None:
        """Train in this form from here on."""
        self.trainer, self._drawn = Trainer(self.task, form, self.local.objective), None
        self.width = self._fixed_width() if form == "compiled" else None


def _row(value: Any, c: int, number: int) -> Any:
    """Client c's part of a shared value: its row of a per-client tensor, anything else as it is."""
    return (
        value[c : c + 1] if isinstance(value, Tensor) and value.dim() > 1 and len(value) == number else value
    )


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
