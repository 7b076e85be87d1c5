"""Where memory lies never shows in a result."""

import numpy as np
import torch

from raysim.core.layout import ALIGN, aligned, padded
from raysim.core.rows import RowStore


def test_aligned_copies_only_what_is_not():
    base = torch.arange(100.0)
    assert aligned(base) is base
    off = base[1:]
    assert aligned(off).data_ptr() % ALIGN == 0
    assert torch.equal(aligned(off), off)


def test_rows_are_aligned_in_views_and_in_copies():
    store = RowStore()
    store.admit(np.arange(7))
    for ids in ([2, 3, 4], [5, 1, 3]):
        rows, _ = store.checkout(np.array(ids), "a", torch.ones(13))
        assert rows.shape == (3, 13)
        assert all(row.data_ptr() % ALIGN == 0 for row in rows)
    assert padded(13) == 16
    assert padded(16) == 16


def test_results_do_not_depend_on_the_alignment_of_the_model():
    """A model read from a file or a message lies anywhere: the round must not show it."""
    from raysim.core.server import Server
    from raysim.runtime.coordinator import Coordinator
    from tests.experiments import digits

    results = []
    for shift in range(0, 16, 3):
        coordinator = Coordinator(digits(rounds=2), None)
        server = coordinator._prepare()
        anywhere = torch.empty(len(server.x_P) + 16)[shift : shift + len(server.x_P)].copy_(server.x_P)
        results.append(coordinator._rounds(Server(anywhere)).server.x_P)
    assert all(torch.equal(results[0], r) for r in results)
