"""The picture of a partition: drawn for few and many clients, with and without labels."""

import io

import numpy as np
import pytest

from raysim.core.interfaces import Dataset
from raysim.core.losses import CrossEntropy, SquaredError
from raysim.report.partition import picture


def labelled(n, classes):
    x, y = np.zeros((n, 1), np.float32), np.arange(n) % classes
    return Dataset(x, y, x, y, loss=CrossEntropy(), outputs=classes)


def heights(axes):
    """Top of the highest bar over each client."""
    tops = {}
    for bar in axes.patches:
        place = round(bar.get_x() + bar.get_width() / 2)
        tops[place] = max(tops.get(place, 0), bar.get_y() + bar.get_height())
    return [tops[place] for place in sorted(tops)]


def drawn(figure):
    target = io.BytesIO()
    figure.savefig(target, format="png")
    assert target.getvalue().startswith(b"\x89PNG")
    return figure


def test_few_clients_are_all_shown_with_their_sizes():
    shards = [np.arange(30), np.arange(30, 35), np.arange(35, 100)]
    figure = drawn(picture(labelled(100, 4), shards))
    (axes,) = figure.axes
    assert heights(axes) == [30, 5, 65]
    assert axes.get_xlabel() == "client"
    assert axes.get_ylabel() == "training examples"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["3", "2", "1", "0"]


def test_many_clients_are_sampled_beside_a_histogram():
    shards = np.array_split(np.arange(5000), 700)
    figure = drawn(picture(labelled(5000, 10), shards))
    bars, sizes = figure.axes
    assert len(heights(bars)) == 60
    np.testing.assert_allclose(heights(bars), 1)
    assert sum(bar.get_height() for bar in sizes.patches) == 700


@pytest.mark.parametrize("sizes", [[1] * 100, [0] + [3] * 100, [10_000] + [1] * 80, [500, 0] * 40])
def test_every_client_is_in_the_histogram(sizes):
    shards = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    figure = drawn(picture(labelled(sum(sizes), 3), shards))
    assert sum(bar.get_height() for bar in figure.axes[1].patches) == len(sizes)


def test_many_labels_lie_on_a_colour_scale():
    figure = drawn(picture(labelled(1000, 100), np.array_split(np.arange(1000), 5)))
    bars, scale = figure.axes
    assert bars.get_legend() is None
    assert scale.get_ylabel() == "label"


@pytest.mark.parametrize("clients", [1, 3, 100])
def test_without_labels_sizes_are_drawn(clients):
    y = np.zeros((300, 1), np.float32)
    data = Dataset(y, y, y, y, loss=SquaredError(), outputs=1)
    figure = drawn(picture(data, np.array_split(np.arange(300), clients)))
    assert len(figure.axes) == 1
