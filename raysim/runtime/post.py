"""How tensors reach client actors and come back: by mailbox where there is one, else by Ray."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray
import torch
from torch import Tensor

from raysim.core.host import Partial
from raysim.runtime import mailbox, placing
from raysim.runtime.mailbox import Address, Mailbox, Slip


@dataclass(frozen=True)
class Beside:
    """Stands for a shared tensor that travels beside the call, in the object store."""

    number: int


def sent(x: Tensor) -> Any:
    """A tensor as an argument by Ray's way: put into the object store (numpy is read without a copy) or sent along."""
    array = x.detach().cpu().contiguous().numpy()
    return ray.put(array) if array.nbytes > placing.inline_bytes() else array


class Post:
    """The mailboxes of a fleet's actors.

    Args:
        actors: how many.
    """

    def __init__(self, actors: int) -> None:
        self.mailboxes: list[Mailbox | None] = [None] * actors

    def share(self, i: int, join: Callable[[Address], bool]) -> None:
        """A new mailbox for actor ``i``, if ``join`` says that it could open it."""
        made = mailbox.create(len(self.mailboxes))
        try:
            self.mailboxes[i] = made[0] if made and join(made[1]) else None
        finally:
            if made:
                mailbox.forget(made[1])

    def posted(self, shared: tuple[Any, ...], indices: list[int]) -> dict[int, tuple[list[Any], list[Any]]]:
        """Shared values for each actor, and what travels beside its call.

        Tensors are slips where the actor has a mailbox with room; for all other actors they are put into the object
        store once (or sent along, small as they are).
        """
        posted: dict[int, tuple[list[Any], list[Any]]] = {i: ([], []) for i in indices}
        boxes = {i: box for i in indices if (box := self.mailboxes[i])}
        for box in boxes.values():
            box.begin()
        for value in shared:
            array = value.detach().cpu().contiguous().numpy() if isinstance(value, Tensor) else None
            by_ray = None
            for i, (values, large) in posted.items():
                slip = boxes[i].put(0, array) if array is not None and i in boxes else None
                if array is not None and slip is None:
                    by_ray = sent(value) if by_ray is None else by_ray
                    values.append(Beside(len(large)))
                    large.append(by_ray)
                else:
                    values.append(value if slip is None else slip)
        return posted

    def received(self, i: int, partial: Partial) -> Partial:
        """An actor's tensors, copied: slips lead into memory it will overwrite, the object store is read-only."""
        box = self.mailboxes[i]
        read = lambda v: torch.from_numpy(np.array(box.get(v) if box and isinstance(v, Slip) else v))
        copies = lambda values: tuple(read(v) for v in values)
        nodes = {n: copies(v) for n, v in partial.nodes.items()}
        return replace(partial, nodes=nodes, rows=[copies(r) for r in partial.rows])
