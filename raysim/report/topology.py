"""A picture of who talks to whom: the graph, and the mixing matrix beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_array

from raysim.core.interfaces import Topology
from raysim.topologies import (
    Complete,
    Grid,
    OnePeerExponential,
    OneSidedRing,
    Ring,
    Star,
    StaticExponential,
    Torus,
)
from raysim.topologies.grid import sides
from raysim.topologies.spectrum import beta, period

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAMED = 40  # clients up to which each carries its number
_ARROWS = 32  # clients up to which one-way edges have arrow heads
_SPRINGS = 300  # clients up to which a graph without a form of its own is laid out by springs
_EDGES = 20_000  # more are thinned out
_CELLS = 400  # rows of the matrix up to which each is drawn
# Ten colours told apart with any colour vision: Petroff, Accessible Color Sequences for Data Visualization,
# 2021, https://arxiv.org/abs/2107.02270
_COLOURS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300",
    "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
_ROUND = (Ring, OneSidedRing, StaticExponential, OnePeerExponential, Complete)


def picture(topology: Topology, clients: int) -> Figure:
    """The graph, laid out in its own form, beside the mixing matrix; β and the spectral gap above.

    Where the matrix varies, the graph has the edges of a whole period, a colour per round, and the matrix is that of
    round 0.

    Args:
        topology: what to draw.
        clients: how many clients.

    Returns:
        A figure that belongs to no window; ``savefig`` writes it.
    """
    from matplotlib.figure import Figure

    b, rounds = beta(topology, clients), period(topology, clients)
    figure = Figure(figsize=(10, 4.8), layout="constrained")
    graph, matrix = figure.subplots(1, 2, width_ratios=(1, 1.15))
    _draw_graph(graph, topology, clients, rounds)
    _draw_matrix(matrix, topology.mixing(clients, 0), clients, "W of round 0" if topology.varies else "W")
    over = f" over {rounds} rounds" if rounds > 1 else ""
    plural = "s" * (clients != 1)
    figure.suptitle(
        f"{_name(topology)}, {clients} client{plural}: β = {b:.4f}, spectral gap {1 - b:.3g}{over}",
        fontsize="large",
    )
    return figure


def _name(topology: Topology) -> str:
    text = repr(topology).removesuffix("()")
    return text if len(text) <= 60 else type(topology).__name__


# ---- the graph --------------------------------------------------------------------------------


def _draw_graph(axes: Axes, topology: Topology, clients: int, rounds: int) -> None:
    place_N2 = _places(topology, clients)
    thinned = False
    for k in range(rounds):
        W = topology.mixing(clients, k)
        edge_E2 = _edges(W)
        thinned = thinned or len(edge_E2) * rounds > _EDGES
        step = -(-len(edge_E2) * rounds // _EDGES) or 1
        one_way = clients <= _ARROWS and (W != W.T).nnz > 0
        colour = _COLOURS[k % len(_COLOURS)] if rounds > 1 else "0.55"
        label = f"round {k}" if rounds > 1 else None
        _draw_edges(axes, _segments(topology, place_N2, edge_E2[::step]), one_way, colour, label)
    size = 170 if clients <= _NAMED else max(1.0, 6000 / clients)
    rim: dict[str, Any] = (
        {"edgecolors": "white", "linewidths": 0.5} if clients <= _SPRINGS else {"linewidths": 0}
    )
    axes.scatter(*place_N2.T, s=size, color=_COLOURS[0], zorder=2, **rim)
    if clients <= _NAMED:
        for i, (x, y) in enumerate(place_N2):
            axes.text(x, y, str(i), ha="center", va="center", fontsize=7, color="white", zorder=3)
    if rounds > 1:
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize="small")
    axes.set_title("clients, some of their edges" if thinned else "clients", fontsize="medium")
    axes.set_aspect("equal")
    axes.margins(0.08)
    axes.set_axis_off()


def _places(topology: Topology, clients: int) -> np.ndarray:
    """Where each client is drawn, [N, 2]."""
    if isinstance(topology, (Grid, Torus)):
        row, column = np.divmod(np.arange(clients), sides(clients)[1])
        return np.stack([column, -row], axis=1).astype(np.float64)
    if isinstance(topology, Star):
        return np.concatenate([np.zeros((1, 2)), _circle(clients - 1)])
    if isinstance(topology, _ROUND) or clients > _SPRINGS or clients < 3:
        return _circle(clients)
    import networkx as nx

    graph = nx.Graph(map(tuple, _edges(topology.mixing(clients, 0)).tolist()))
    graph.add_nodes_from(range(clients))
    place = nx.spring_layout(graph, seed=0)
    return np.array([place[i] for i in range(clients)])


def _circle(number: int) -> np.ndarray:
    """Clockwise from the top, [number, 2]."""
    angle = 2 * np.pi * np.arange(number) / max(number, 1)
    return np.stack([np.sin(angle), np.cos(angle)], axis=1)


def _edges(W: csr_array) -> np.ndarray:
    """From whom to whom a row is sent, [E, 2]; both ways once where W has both."""
    entry = W.tocoo()
    sender, receiver = entry.coords[1].astype(np.int64), entry.coords[0].astype(np.int64)
    back = np.isin(receiver * len(W.indptr) + sender, sender * len(W.indptr) + receiver)
    keep = (sender < receiver) | (~back & (sender != receiver))
    return np.stack([sender, receiver], axis=1)[keep]


def _segments(topology: Topology, place_N2: np.ndarray, edge_E2: np.ndarray) -> np.ndarray:
    """Lines from client to client, [E, 2, 2]; an edge around a torus leaves on one side and comes in on the other."""
    line = place_N2[edge_E2]
    if not isinstance(topology, Torus):
        return line
    along = line[:, 1] - line[:, 0]
    around = np.abs(along).max(1) > 1
    out = np.sign(along[around]) * 0.5
    leaving = np.stack([line[around, 0], line[around, 0] - out], axis=1)
    coming = np.stack([line[around, 1], line[around, 1] + out], axis=1)
    return np.concatenate([line[~around], leaving, coming])


def _draw_edges(axes: Axes, line_E22: np.ndarray, one_way: bool, colour: str, label: str | None) -> None:
    from matplotlib.collections import LineCollection
    from matplotlib.patches import FancyArrowPatch

    alpha = float(np.clip(300 / max(len(line_E22), 1), 0.08, 0.9))
    if one_way:
        for start, end in line_E22.tolist():
            shape: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 9, "shrinkA": 7, "shrinkB": 7}
            axes.add_patch(FancyArrowPatch(start, end, color=colour, alpha=alpha, zorder=1, **shape))
        axes.plot([], [], color=colour, label=label)
        return
    lines = LineCollection(list(line_E22), colors=colour, alpha=alpha, linewidths=1, zorder=1, label=label)
    axes.add_collection(lines)


# ---- the matrix -------------------------------------------------------------------------------


def _draw_matrix(axes: Axes, W: csr_array, n: int, name: str) -> None:
    """Weights as colours; of many clients, the weights of a block of clients together."""
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import LogLocator, MaxNLocator

    block = -(-n // _CELLS)
    cells = -(-n // block)
    entry = W.tocoo()
    place = (entry.coords[0] // block).astype(np.int64) * cells + entry.coords[1] // block
    weight = np.bincount(place, entry.data, cells**2).reshape(cells, cells)
    edge = cells * block - 0.5
    seen = np.ma.masked_equal(weight, 0)
    look: dict[str, Any] = {"vmin": 0}
    if block > 1:
        low, high = float(seen.min()), float(seen.max())
        look = {"norm": LogNorm(low, max(high, 1.01 * low))}
    image = axes.imshow(
        seen, cmap="viridis_r", extent=(-0.5, edge, edge, -0.5), interpolation="nearest", **look
    )
    text = "weight" if block == 1 else f"weights of {block} x {block} clients together"
    ticks = None if block == 1 else LogLocator(subs=(1, 2, 5))
    axes.figure.colorbar(image, ax=axes, label=text, pad=0.02, format="%g", ticks=ticks).minorticks_off()
    axes.set(xlabel="sender j", ylabel="receiver i")
    axes.set_title(f"mixing matrix {name}", fontsize="medium")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
