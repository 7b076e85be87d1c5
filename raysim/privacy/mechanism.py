"""The Gaussian mechanism: rows of bounded length, and noise."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from raysim.core import streams
from raysim.core.channel import Desk
from raysim.core.interfaces import Rule
from raysim.core.plugin import ConfigError, NonNegative
from raysim.core.sending import Sender
from raysim.core.transforms import Privacy
from raysim.privacy import accounting
from raysim.privacy.clip import AdaptiveClip, Clipping

CHUNK = 1 << 16  # columns that get noise at once, with a key of their own: bounds memory
MISSING = "epsilon is not computed: pip install 'raysim[privacy]'"


@dataclass(frozen=True)
class GaussianMechanism(Privacy):
    """Differential privacy for clients: rows are clipped to a length S, and noise is added. With averaging: DP-FedAvg.

    at="server": every mean Σ_i w_i x_i of clipped rows gets N(0, (z S max_i w_i)²) in every number, every sum
    N(0, (z S)²); with equal weights z S / cohort. This protects against whoever sees the models, not against the
    server. at="client": every row gets N(0, (z S)²), which protects against the server too (local differential
    privacy). A mean over n equal clients has √n times the noise that the server would have added.

    The metric "epsilon" is the ε spent so far for δ = delta, of the client that lost most: (ε, δ)-differential privacy
    where neighbours differ in all data of one client, replaced by any other data (replace-one; with weights by examples
    by as many other examples: sizes are public). A clipped row then changes by up to 2S, so a release has the noise
    multiplier z / 2. Figures for neighbours with and without a client (add-or-remove, a row changes by S) are smaller
    for the same z. ε is computed by Rényi differential privacy, and needs the package dp-accounting.

    - Every row that a client sends is a release: SCAFFOLD has two a round. They add up.
    - The noise of ``AdaptiveClip`` hides each client's bit; it is one more release a round.
    - With at="server", equal weights and clients that keep nothing from round to round, ε is that of cohorts drawn anew
      each round which nobody sees (amplification by sampling): keep who took part to yourself.
    - Otherwise sizes, or what clients remember, tell more than one round's draw, and the server sees who sends: with
      unequal weights, clients with memory (SCAFFOLD, keep_state) or at="client", ε is that of the cohorts as drawn for
      somebody who sees them, and clients pay for the rounds that they took part in. Where noise is small this may be
      less than the bound for cohorts that nobody sees.

    Only what clients send is protected. Other metrics of the simulator (train_loss, clipped, probes) are computed from
    the clients' data as they are, and whoever has the seed has the noise: this studies the mechanism, on data that need
    no protection. ε leaves out what attackers who watch honest clients (LittleIsEnough) put into their own rows. A row
    that is not finite is sent as zero, since nothing bounds its length.

    Paper: McMahan, Ramage, Talwar, Zhang, Learning Differentially Private Recurrent Language Models, 2018,
    https://arxiv.org/abs/1710.06963, with cohorts of a fixed size in place of Poisson sampling; Mironov, Rényi
    Differential Privacy, 2017, https://arxiv.org/abs/1702.07476.

    Args:
        noise_multiplier: z, the noise's standard deviation in units of S, above 0.
        clip: ``Clip`` or ``AdaptiveClip``, which says what S is.
        delta: δ, above 0 and below 1; far below one over the number of clients.
        at: who adds the noise: "server" or "client".
    """

    covers: ClassVar[bool] = True

    noise_multiplier: NonNegative
    clip: Privacy
    delta: Annotated[float, Field(gt=0, lt=1)]
    at: Literal["server", "client"] = "server"

    def check(self) -> None:
        """Noise on everything that is released."""
        if not isinstance(self.clip, Clipping):
            raise ConfigError(
                f"GaussianMechanism.clip must be Clip or AdaptiveClip, got {type(self.clip).__name__}."
            )
        if self.noise_multiplier == 0:
            raise ConfigError(
                "GaussianMechanism.noise_multiplier must be above 0, got 0: without noise there is no guarantee. "
                f"Write {type(self.clip).__name__} alone in Simulation.uplink to clip only."
            )
        if not isinstance(self.clip, AdaptiveClip):
            return
        if self.at == "client":
            raise ConfigError(
                "GaussianMechanism.at 'client' hides every row from the server, but AdaptiveClip has each client tell "
                "it whether its row was long. Use Clip, or at='server'."
            )
        if self.clip.noise == 0:
            raise ConfigError(
                "AdaptiveClip.noise must be above 0 in a GaussianMechanism, got 0: how many rows were long would be "
                "told exactly. A few percent of a large cohort (in clients) cost little."
            )

    @property
    def last(self) -> bool:
        """The server's noise is made for rows as long as the clipping leaves them."""
        return self.at == "server"

    @property
    def fills(self) -> bool:
        """A client's noise is dense."""
        return self.at == "client"

    @property
    def clipping(self) -> Clipping:
        """The clipping."""
        assert isinstance(self.clip, Clipping)
        return self.clip

    def fit(self, rule: Rule, clients: int) -> None:
        """Noise on a sum protects nothing where the server sees the rows."""
        if self.at == "server" and rule.compresses:
            raise ConfigError(
                f"GaussianMechanism.at 'server' needs rows that are no longer than the clipping left them, but "
                f"{type(rule).__name__} compresses what clients send. Use at='client', or DPSign as vote."
            )
        if self.at == "server" and rule.gathers:
            raise ConfigError(
                f"GaussianMechanism.at 'server' adds noise to what all clients sent together, but the rule "
                f"{type(rule).__name__} looks at single clients' rows. Use at='client', or a rule that works on means."
            )

    def told(self, desk: Desk) -> dict[str, Tensor]:
        """What the clipping tells; and for noise of its own, that an exchange is not the first of its round."""
        told = self.clip.told(desk)
        if self.at == "server":
            return told
        before = _count(desk, "exchanges")
        return told | {"exchange": torch.tensor([before])} if before else told

    def apply(self, rows_CP: Tensor, sender: Sender) -> tuple[Tensor, Tensor | float | None]:
        """Clip; at the client, add noise."""
        length_C = self.clipping.shorten(rows_CP, sender)
        rows_CP.masked_fill_(~length_C.isfinite().unsqueeze(1), 0)
        if self.at == "client":
            key_C = sender.key("noise")
            if "exchange" in sender.known:
                key_C = streams.key(key_C, sender.known["exchange"])
            add_noise(rows_CP, self.noise_multiplier * self.clipping.limit(sender.known), key_C)
        return rows_CP, None

    def received(self, row_P: Tensor, share: float, desk: Desk) -> Tensor:
        """At the server, add noise, anew for every row."""
        if self.at == "client":
            return row_P
        key_1 = streams.key(desk.key, "noise", _count(desk, "released")).reshape(1)
        noised_1P = row_P.clone().unsqueeze(0)
        add_noise(noised_1P, self.noise_multiplier * self.clipping.limit(desk.state) * share, key_1)
        return noised_1P[0]

    def settle(self, desk: Desk) -> None:
        """What the round's releases cost, and the clipping's own end of the round."""
        released = int(desk.state.pop("released", torch.tensor(0)))
        desk.state.pop("exchanges", None)
        if self.at == "server" and released != desk.rows:
            raise ConfigError(
                f"GaussianMechanism.at 'server' noised {released} means or sums, but clients sent {desk.rows} rows "
                "each: the rule looks at single clients' rows. Use at='client', or a rule that works on means."
            )
        if not desk.rows:
            return
        self._spend(desk)
        self.clip.settle(desk)
        spent = accounting.epsilon(desk.state, self.delta)
        if spent is None:
            self._warn(desk)
        elif math.isfinite(spent):
            desk.note("epsilon", spent)

    def _spend(self, desk: Desk) -> None:
        releases = [self.noise_multiplier / 2] * desk.rows
        if isinstance(self.clip, AdaptiveClip):
            releases.append(self.clip.noise)  # one client more or less in the number of short rows
        sigma = accounting.together(*releases)
        if desk.keeps:
            desk.state["kept"] = torch.tensor(True)
        hidden = self.at == "server" and desk.equal and "kept" not in desk.state
        if hidden and desk.number < desk.total:
            accounting.spend_hidden(desk.state, sigma, desk.number, desk.total)
        else:
            accounting.spend(desk.state, sigma, desk.ids_C, desk.total)

    def _warn(self, desk: Desk) -> None:
        """Once in a run, resumed or not."""
        if "warned" not in desk.state:
            desk.state["warned"] = torch.tensor(True)
            warnings.warn(MISSING, UserWarning, stacklevel=2)


def _count(desk: Desk, name: str) -> int:
    """How often this was asked before in this round."""
    before = int(desk.state.get(name, torch.tensor(0)))
    desk.state[name] = torch.tensor(before + 1)
    return before


def add_noise(rows_CP: Tensor, std: float, key_C: Tensor) -> None:
    """Add N(0, std²) to every number, in place."""
    for j, part_Cp in enumerate(rows_CP.split(CHUNK, dim=1)):
        part_Cp.add_(streams.normal(streams.key(key_C, j), part_Cp.shape[1]).mul_(std))
