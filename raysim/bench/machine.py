"""What the machine can do: its sgemm rate, the arithmetic of a client update, and the memory of a process tree."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from raysim.bench.workloads import Workload


def sgemm(threads: int, seconds: float = 1.0) -> float:
    """GFLOP/s of 1024 x 1024 float32 products with that many threads: the best of the repetitions that fit."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    a, b, out = (torch.full((1024, 1024), 0.5) for _ in range(3))
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        for _ in range(5):
            torch.mm(a, b, out=out)
        best = max(best, 5 * 2 * 1024**3 / (time.perf_counter() - begin) / 1e9)
    torch.set_num_threads(before)
    return best


def flops(w: Workload) -> int:
    """Floating-point operations of one client update (matrix products and convolutions), counted by torch."""
    if w.steps == 0:
        return 0
    model = w.network()
    x, y = torch.zeros(w.batch, *w.shape), torch.zeros(w.batch, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        torch.nn.functional.cross_entropy(model(x), y).backward()
    return counter.get_total_flops() * (w.per_client // w.batch)


def memory_mb() -> float:
    """Memory of this process and all its descendants now (Linux; elsewhere 0).

    Proportional set size: a page that several processes map is shared out among them, so that nothing counts twice.
    Reading it stops the processes for a moment, so it is not for timed stretches.
    """
    return sum(_pss(pid) for pid in _tree(os.getpid())) / 1024


def _tree(root: int) -> list[int]:
    """A process and its descendants."""
    parent: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
    found = [root]
    for pid in found:
        found += [child for child, p in parent.items() if p == pid]
    return found


def _pss(pid: int) -> int:
    """Proportional set size in KB."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0
