"""A picture of who holds what: labels per client, and how large the clients are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from raysim.core.interfaces import Dataset

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHOWN = 60
# Ten colours told apart with any colour vision: Petroff, Accessible Color Sequences for Data Visualization,
# 2021, https://arxiv.org/abs/2107.02270
_COLOURS = [
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6",
    "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
]  # fmt: skip


def picture(data: Dataset, shards: Sequence[np.ndarray]) -> Figure:
    """Stacked bars of the labels that clients hold.

    Up to 60 clients, the height of a bar is the client's size. Of more clients 60 are shown, as shares of
    their examples, beside a histogram of all sizes.

    Args:
        data: the data set; without class labels only sizes are drawn.
        shards: index vectors, one per client.

    Returns:
        A figure that belongs to no window; ``savefig`` writes it.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    sizes = np.array([len(shard) for shard in shards])
    labelled = data.y_train.ndim == 1 and data.y_train.dtype.kind in "iu"
    if len(shards) <= _SHOWN:
        axes = figure.subplots()
        _draw_counts(axes, _counts(data, shards) if labelled else sizes[:, None], np.arange(len(shards)))
        axes.set(ylabel="training examples", title=f"{len(shards)} client" + "s" * (len(shards) != 1))
    elif labelled:
        axes, histogram = figure.subplots(1, 2, width_ratios=(2.2, 1))
        shown = np.linspace(0, len(shards) - 1, _SHOWN).astype(np.int64)
        count = _counts(data, [shards[int(i)] for i in shown])
        _draw_counts(axes, count / np.maximum(count.sum(1, keepdims=True), 1), shown)
        axes.set(
            ylabel="share of the client's examples", title=f"{_SHOWN} of {len(shards)} clients", ylim=(0, 1)
        )
        _draw_sizes(histogram, sizes)
    else:
        _draw_sizes(figure.subplots(), sizes)
    return figure


def _counts(data: Dataset, shards: Sequence[np.ndarray]) -> np.ndarray:
    """Examples of each label, [clients, labels]."""
    return np.stack([np.bincount(data.y_train[shard], minlength=data.outputs) for shard in shards])


def _draw_counts(axes: Axes, height: np.ndarray, ids: np.ndarray) -> None:
    """One bar per client, one colour per column of ``height`` [clients, labels]."""
    place = np.arange(len(height))
    base = np.cumsum(height, axis=1) - height
    labels = height.shape[1]
    colours = _colours(axes, labels)
    for label in range(labels):
        axes.bar(place, height[:, label], 0.9, base[:, label], color=colours[label], label=str(label))
    if 1 < labels <= len(_COLOURS):
        axes.legend(title="label", loc="upper left", bbox_to_anchor=(1, 1), frameon=False, reverse=True)
    step = max(1, len(ids) // 12)
    axes.set_xticks(place[::step], [str(i) for i in ids[::step]])
    axes.set_xlim(-0.7, len(ids) - 0.3)
    axes.set_xlabel("client")
    axes.spines[["top", "right"]].set_visible(False)


def _colours(axes: Axes, labels: int) -> list[Any]:
    """A colour per label; more than ten labels lie on a scale, which is drawn beside the axes."""
    if labels <= len(_COLOURS):
        return _COLOURS
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    scale = ScalarMappable(Normalize(0, labels - 1), colormaps["viridis"])
    axes.figure.colorbar(scale, ax=axes, label="label", pad=0.01)
    return list(scale.to_rgba(np.arange(labels)))


def _draw_sizes(axes: Axes, sizes: np.ndarray) -> None:
    """Histogram of all clients' sizes, on a logarithmic axis where they differ a hundredfold."""
    from matplotlib.ticker import MaxNLocator

    low, high = int(sizes.min()), int(sizes.max())
    if high > 100 * max(low, 1):
        edges = np.unique(np.geomspace(max(low, 1), high + 1, 30).astype(np.int64))
        axes.set_xscale("log")
    else:
        edges = np.unique(np.linspace(low, high + 1, 30).astype(np.int64))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.hist(np.maximum(sizes, edges[0]), bins=(edges - 0.5).tolist(), color=_COLOURS[0])
    median = float(np.median(sizes))
    axes.axvline(median, color="black", linestyle="--", linewidth=1)
    axes.set(xlabel="training examples of a client", ylabel="clients")
    axes.set_title(f"sizes {low} to {high}, median {median:g}", fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
