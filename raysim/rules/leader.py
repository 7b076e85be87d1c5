"""Leader gradient descent: clients with models of their own, pulled to the best one among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from raysim.core.clients import Clients
from raysim.core.cohort import Cohort, Table
from raysim.core.interfaces import Rule
from raysim.core.local import Local
from raysim.core.plugin import ConfigError, Count, NonNegative
from raysim.core.server import Server
from raysim.core.terms import Pull, Term, proximal
from raysim.rules.own import begin, mean_model, own

Leaders = tuple[Tensor | Table | None, Tensor | None]
"""What a client follows through its local steps: its group's leader and the global one, where there are such."""


@dataclass(frozen=True)
class Leader(Rule):
    """Leader (stochastic) gradient descent, LGD and LSGD: clients are pulled to the best of them, not to their mean.

    Clients stand in groups j of consecutive ids. Every round each trains its own x for τ = ``Local.steps`` steps;
    then x̃_j, the model with the smallest loss in its group, and x̃, the smallest of all, are found. Where the pull acts:

    - "communication" (the poster's algorithm): after the round x ← x - λ (x - x̃_j), and then, every ``global_every``
      rounds, x ← x - λ_G (x - x̃).
    - "step": after every local step, to the leaders of the last communication, λ and λ_G as they are. The poster's
      update x ← x - η g(x) - λ (x - x̃_j) - λ_G (x - x̃) pulls from where the step began; the authors' code pulls
      from where it ended ("prox": global leader first, then the group's), and so do we. For plain SGD the poster's
      form is "objective" with λ / η.
    - "objective" (the theorems' LGD): clients minimise f_i(x) + λ/2 ‖x - x̃_j‖² + λ_G/2 ‖x - x̃‖², λ inside η.

    The authors' code pulls both at communication (0.1) and after every step (0.1 / τ); here it is one of the two. It
    scores a model by the running mean of its last mini-batch losses, as many as it has local steps: ``score="running"``
    with ``window=1``. We keep one number per client and round, the mean of the round's losses, so a window is counted
    in rounds. Equal losses: the lowest id leads. The server's model is the center variable, the plain mean of all
    models after the pull, looked at but not sent. The metrics ``leader`` and ``leader_loss`` tell who leads.

    With one local step and full batches it is LGD; ``groups=1`` is the single-leader form, without λ_G.

    Paper: Teng, Gao, Chalus, Choromanska, Goldfarb, Weller, Leader Stochastic Gradient Descent for Distributed
    Training of Deep Learning Models, 2019, https://arxiv.org/abs/1905.10395; poster and code at
    https://github.com/yunfei-teng/LSGD.

    Args:
        pull: λ, strength of the pull to the group's leader; in [0, 1), in an objective at least 0.
        global_pull: λ_G, strength of the pull to the global leader; with more than one group.
        groups: number of groups, even in size to within one client.
        global_every: rounds between communications with the global leader, τ_G / τ.
        pull_at: where the pulls act: at "communication", after every "step", or in the "objective".
        score: whose loss is the smallest: the "running" mean of training losses, or the "full" local loss at the model.
        window: rounds in the running mean.
    """

    pull: NonNegative = 0.1
    global_pull: NonNegative = 0.0
    groups: Count = 1
    global_every: Count = 1
    pull_at: Literal["communication", "step", "objective"] = "communication"
    score: Literal["running", "full"] = "running"
    window: Count = 1

    own_models: ClassVar[bool] = True
    everyone: ClassVar[bool] = True

    def check(self) -> None:
        """Pulls that do not overshoot, and a global leader only where there is more than one."""
        if self.pull_at != "objective" and self.pull + self.global_pull >= 1:
            raise ConfigError(
                f"Leader.pull and Leader.global_pull are shares of the way to a leader and must sum to less than 1, "
                f"got {self.pull} + {self.global_pull}. Use smaller ones, such as 0.1."
            )
        if self.groups == 1 and (self.global_pull > 0 or self.global_every > 1):
            raise ConfigError(
                f"With one group its leader is the global leader, got Leader.global_pull={self.global_pull} and "
                f"global_every={self.global_every}. Leave them out and use pull, or use more groups."
            )

    def fit(self, clients: int, cohort: int, local: Local) -> None:
        """No empty group, and a training loss to go by."""
        if self.groups > clients:
            raise ConfigError(
                f"Leader.groups is {self.groups}, but there are only {clients} clients. Use at most {clients}."
            )
        if self.score == "running" and local.steps == 0:
            raise ConfigError(
                "Leader.score is 'running', a mean of training losses, but Local.steps is 0. Use at least one local "
                "step, or score='full'."
            )

    def round(self, clients: Clients, server: Server) -> Server:
        """Up a score per client and a row per group; down one row to every client, two with the global leader."""
        group_N = groups_of(clients.number, self.groups)
        begin(clients, server)
        ids_G, rows_GP, loss_G = clients.best(
            train_and_score, "model", self, *self._followed(server), groups=group_N[clients.ids]
        )
        first = np.lexsort((ids_G, loss_G))[0]
        clients.note("leader", ids_G[first])
        clients.note("leader_loss", loss_G[first])
        meets = self.global_pull > 0 and (server.round + 1) % self.global_every == 0
        top_P = rows_GP[first].clone()
        if self.pull_at != "communication":
            state = {"leaders": rows_GP, "groups": torch.from_numpy(group_N)}
            if self.global_pull > 0:
                state["global_leader"] = top_P if meets else server.state.get("global_leader", server.x_P)
            return server.at(mean_model(clients), **state)
        near = Table(rows_GP, group_N) if self.pull > 0 else None
        return server.at(clients.run(pull_to_leaders, self, near, top_P if meets else None, look=True))

    def models(self, cohort: Cohort, server: Server) -> Tensor:
        """Each client's model after its local steps, before the communication."""
        cohort.state.rows("model", server.x_P)  # before the first round
        return train(cohort, self, *self._followed(server))

    def _followed(self, server: Server) -> Leaders:
        """Leaders of the last communication, for the local steps; in the first round all models are the same one."""
        if self.pull_at == "communication":
            return None, None
        if server.round == 0:
            return server.x_P, None if self.global_pull == 0 else server.x_P
        table = Table(server.state["leaders"], server.state["groups"].cpu().numpy())
        return table, server.state["global_leader"] if self.global_pull > 0 else None


def groups_of(clients: int, groups: int) -> np.ndarray:
    """Group of each client by id: consecutive ids, sizes even to within one."""
    sizes = [len(part) for part in np.array_split(np.arange(clients), groups)]
    return np.repeat(np.arange(groups), sizes)


def train(cohort: Cohort, rule: Leader, leader: Tensor | Table | None, top_P: Tensor | None) -> Tensor:
    """Local steps of the clients' own models, in place, following group and global leaders where there are such."""
    x_CP = own(cohort)
    if leader is None:
        return cohort.train(x_CP, inplace=True)
    near = of_clients(cohort, leader)
    if rule.pull_at == "objective":
        return cohort.train(x_CP, term=attraction(rule, near, top_P), inplace=True)
    return cohort.train(x_CP, pull=chained([(rule.global_pull, top_P), (rule.pull, near)]), inplace=True)


def train_and_score(
    cohort: Cohort, rule: Leader, leader: Tensor | Table | None, top_P: Tensor | None
) -> Tensor:
    """Local steps, then each client's score [C]."""
    x_CP = train(cohort, rule, leader, top_P)
    if rule.score == "full":
        return cohort.loss(x_CP)
    loss_C = cohort.reports["train_loss"]
    if rule.window == 1:
        return loss_C
    last_CW = cohort.state.rows("losses", loss_C.new_zeros(rule.window))
    last_CW[:, cohort.round % rule.window] = loss_C
    return last_CW.sum(1) / min(cohort.round + 1, rule.window)


def pull_to_leaders(cohort: Cohort, rule: Leader, leaders: Table | None, top_P: Tensor | None) -> Tensor:
    """The communication: to the group's leader, then to the global one, in one pass over the models."""
    x_CP = own(cohort)
    near = None if leaders is None else of_clients(cohort, leaders)
    move = chained([(rule.pull, near), (rule.global_pull, top_P)])
    if move is not None:
        move.apply(x_CP)
    return x_CP


def of_clients(cohort: Cohort, leader: Tensor | Table) -> Tensor:
    """Each client's leader: one row [P] where the block has a single group, which stays in the cache, else [C, P]."""
    if isinstance(leader, Tensor):
        return leader
    group_C = leader.group_N[cohort.ids_C]
    return leader.rows_GP[group_C[0]] if (group_C == group_C[0]).all() else cohort.of(leader)


def attraction(rule: Leader, near: Tensor, top_P: Tensor | None) -> Term:
    """λ/2 ‖x - x̃_j‖² + λ_G/2 ‖x - x̃‖²."""
    term = proximal(rule.pull, near)
    return term if top_P is None else term + proximal(rule.global_pull, top_P)


def chained(moves: list[tuple[float, Tensor | None]]) -> Pull | None:
    """Pulls (strength, towards) one after the other as a single one; None where nothing pulls.

    (1 - q) ((1 - p) x + p a) + q b = (1 - s) x + s c with 1 - s = (1 - q) (1 - p) and s c = (1 - q) p a + q b.
    """
    whole: Pull | None = None
    for strength, towards in moves:
        if towards is None or strength == 0:
            continue
        if whole is None:
            whole = Pull(strength, towards)
            continue
        both = 1 - (1 - strength) * (1 - whole.strength)
        whole = Pull(both, torch.lerp(whole.towards, towards, strength / both))
    return whole
