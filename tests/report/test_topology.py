"""The picture of a topology: every form of graph, one client and thousands."""

import io

import numpy as np
import pytest

from raysim import topologies as T
from raysim.report.topology import _edges, picture


def drawn(figure):
    target = io.BytesIO()
    figure.savefig(target, format="png")
    assert target.getvalue().startswith(b"\x89PNG")
    return figure


def lines(figure):
    """Number of edges drawn: lines and arrows."""
    axes = figure.axes[0]
    return sum(len(c.get_segments()) for c in axes.collections if hasattr(c, "get_segments")) + len(
        axes.patches
    )


@pytest.mark.parametrize(
    ("topology", "clients", "edges"),
    [
        (T.Ring(), 8, 8),
        (T.OneSidedRing(), 8, 8),
        (T.Grid(), 6, 7),
        (T.Torus(), 9, 12 + 2 * 6),  # inside, and two halves around each of 6 ways
        (T.StaticExponential(), 5, 10),
        (T.Star(), 5, 4),
        (T.Complete(), 6, 15),
        (T.RandomRegular(3), 10, 15),
        (T.ExplicitMixing(np.eye(4)), 4, 0),
    ],
    ids=repr,
)
def test_every_edge_is_drawn_once(topology, clients, edges):
    figure = drawn(picture(topology, clients))
    assert lines(figure) == edges
    assert f", {clients} clients: β = {T.beta(topology, clients):.4f}, " in figure.get_suptitle()
    assert "spectral gap" in figure.get_suptitle()
    assert figure.axes[1].get_title() == "mixing matrix W"
    shown = figure.axes[1].images[0].get_array().filled(0)
    np.testing.assert_allclose(shown, topology.mixing(clients, 0).toarray())


def test_edges_go_from_sender_to_receiver():
    assert _edges(T.OneSidedRing().mixing(3, 0)).tolist() == [[2, 0], [0, 1], [1, 2]]


@pytest.mark.parametrize("topology", [T.Ring(), T.Grid(), T.Torus(), T.Star(), T.OnePeerExponential(), T.Complete(),
                                      T.ErdosRenyi(0.5)], ids=repr)  # fmt: skip
@pytest.mark.parametrize("clients", [1, 2])
def test_one_or_two_clients(topology, clients):
    figure = drawn(picture(topology, clients))
    assert lines(figure) == clients - 1


def test_a_varying_graph_has_a_colour_per_round():
    figure = drawn(picture(T.OnePeerExponential(), 8))
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [
        "round 0",
        "round 1",
        "round 2",
    ]
    assert figure.get_suptitle().endswith("gap 1 over 3 rounds")
    assert figure.axes[1].get_title() == "mixing matrix W of round 0"


def test_thousands_of_clients_are_drawn_in_blocks_and_thinned_out():
    figure = drawn(picture(T.RandomRegular(10), 5000))
    assert figure.axes[0].get_title() == "clients, some of their edges"
    assert lines(figure) <= 20_000
    shown = figure.axes[1].images[0].get_array().filled(0)
    assert shown.shape == (385, 385)
    assert shown.sum() == pytest.approx(5000)


def test_a_long_name_is_cut_to_the_class():
    title = picture(T.ErdosRenyi(0.123456789012345, seed=12345678901234567890123456), 40).get_suptitle()
    assert title.startswith("ErdosRenyi, 40 clients")
