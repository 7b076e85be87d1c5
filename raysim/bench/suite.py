"""The benchmark as a whole: every measurement in a process of its own, one after the other, and a table at the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

from raysim.bench.workloads import WORKLOADS

Tell = Callable[[str], None]
BLOCKS = (1, 2, 4, 8, 16, 32, 64)
ALONE = ("registered", "gossip", "leader", "topk", "plain", "search", "ring")
"""Workloads without a hand-written loop: gossip, leader, topk stand beside ``full``, search beside ``plain``."""


def one(*arguments: object) -> dict[str, Any]:
    """Run ``raysim.bench.one`` and read its JSON line."""
    command = [sys.executable, "-W", "ignore", "-m", "raysim.bench.one", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise RuntimeError(f"`{' '.join(command[3:])}` failed: {done.stderr.strip()[-2000:]}")
    return json.loads(lines[-1])


def suite(names: list[str], actors: int, tell: Tell) -> Iterator[dict[str, Any]]:
    """Measure workloads: the hand-written loop, in process, one actor and ``actors`` actors; then the machine."""
    for name in names:
        reference = {} if name in ALONE else one("reference", "--of", name)
        if reference:
            yield _row(name, "hand-written PyTorch loop, 1 thread", reference, tell)
        yield _row(name, "raysim, in process", one(name), tell)
        for number in sorted({1, actors} if name == "full" else {actors}):
            yield _row(
                name, f"raysim, {number} actor{'s' * (number > 1)}", one(name, "--actors", number), tell
            )
        if reference and name != "null":
            for threads in (1, actors):
                rate = one("sgemm", "--threads", threads)["gflops"]
                limit = rate * 1e9 / reference["flops"]
                facts = {"updates_per_s": limit, "gflops": rate}
                yield _row(name, f"sgemm limit, {threads} core{'s' * (threads > 1)}", facts, tell)


def blocks(names: list[str], tell: Tell) -> Iterator[dict[str, Any]]:
    """Client updates per second in process for a range of block sizes."""
    for name in names:
        for size in BLOCKS:
            yield _row(name, f"raysim, in process, block {size}", one(name, "--block", size), tell)


def _row(workload: str, system: str, facts: dict[str, Any], tell: Tell) -> dict[str, Any]:
    row = {**facts, "workload": workload, "system": system}
    tell(f"{workload}: {system}: {facts['updates_per_s']:,.0f} client updates/s")
    return row


def markdown(rows: list[dict[str, Any]]) -> str:
    """The measurements as a Markdown table, each workload's shares of its sgemm limit beside it."""
    lines = [
        "| workload | system | client updates/s | of sgemm limit | µs per client | round, ms | peak MB | form, block |"
    ]
    lines += ["| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |"]
    for row in rows:
        limit = _limit(rows, row)
        lines.append(
            f"| {row['workload']} | {row['system']} | {row['updates_per_s']:,.0f} | {limit} | "
            f"{1e6 / row['updates_per_s']:.1f} | {_number(row, 'round_ms', '.1f')} | "
            f"{_number(row, 'peak_mb', ',.0f')} | "
            + (f"{row['form']}, {row['block']} |" if "form" in row else "|")
        )
    return "\n".join(lines)


def _limit(rows: list[dict[str, Any]], row: dict[str, Any]) -> str:
    """Share of the sgemm rate of as many cores as the system used."""
    cores = max(1, row.get("actors", 1))
    name = f"sgemm limit, {cores} core{'s' * (cores > 1)}"
    limits = [r["updates_per_s"] for r in rows if (r["workload"], r["system"]) == (row["workload"], name)]
    return f"{row['updates_per_s'] / limits[0]:.0%}" if limits else ""


def _number(row: dict[str, Any], key: str, form: str) -> str:
    return format(row[key], form) if row.get(key) else ""


def known(names: list[str]) -> list[str]:
    """The workloads asked for, all if none; refuses unknown ones."""
    from raysim.core.plugin import ConfigError

    wrong = [n for n in names if n not in WORKLOADS]
    if wrong:
        raise ConfigError(f"There is no workload {wrong[0]!r}. Known: {', '.join(WORKLOADS)}.")
    return names or list(WORKLOADS)
