"""Adversarial training: every batch is replaced by the worst one that projected gradient ascent finds nearby."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from raysim.core import streams
from raysim.core.interfaces import Objective
from raysim.core.plugin import ConfigError, Count, Positive

TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Adversarial(Objective):
    """Training against an adversary, min_w Σ_b max_{||x'_b - x_b|| <= ρ} ℓ(w; x'_b, y_b): PGD on every batch's inputs.

    x'_0 = x, or a random point of the ball; x'_{k+1} = Π(x'_k + α d_k), where Π is the projection onto the ball of
    radius ρ around x and d_k the steepest direction of each example's loss at the current parameters:

    "linf": d = sign(∇ℓ). "l2": d = ∇ℓ/||∇ℓ||. "sphere": the data have length 1 and so has x', a point of the cap
    {||x'|| = 1, ||x' - x|| <= ρ}: d = g/||g|| for g = (I - x'x'ᵀ)∇ℓ, and Π first goes back to length 1, then, if that
    is outside the cap, to its rim: cos θ x + sin θ t, with θ = 2 arcsin(ρ/2) and t the direction of x' orthogonal to x.

    The random start is uniform in the ball; on the cap, its direction is uniform and so is its distance from x.
    Attacks are made anew at every local step, at the client's own current parameters; evaluation, probes and full local
    gradients see the data as they are. FGSM is ``steps=1, step_size=radius, random_start=False``.

    Paper: Madry, Makelov, Schmidt, Tsipras, Vladu, Towards Deep Learning Models Resistant to Adversarial Attacks,
    2018, https://arxiv.org/abs/1706.06083; on the sphere, Zhang, Plevrakis, Du, Li, Song, Arora, Over-parameterized
    Adversarial Training: An Analysis Overcoming the Curse of Dimensionality, 2020, https://arxiv.org/abs/2002.06668
    (its adversary may be any; the ascent on the cap is Riemannian gradient ascent, written down for raysim).

    Args:
        radius: ρ, in units of the (normalised) inputs, above 0; on the sphere at most 2.
        steps: ascent steps on each batch.
        step_size: α; None for 2ρ/steps.
        norm: "linf", "l2" or "sphere".
        random_start: start at a random point of the ball instead of x.
        clip: smallest and largest value that an input can have, which x' keeps to; it must hold for the data. None for
            no such limits.
    """

    radius: Positive
    steps: Count = 10
    step_size: Positive | None = None
    norm: Literal["linf", "l2", "sphere"] = "linf"
    random_start: bool = True
    clip: tuple[float, float] | None = None

    def check(self) -> None:
        """Limits in order, and none on the sphere, whose points are at most 2 apart."""
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            raise ConfigError(
                f"Adversarial.clip must be a smallest and a larger largest value, got {self.clip}. "
                "Write (0.0, 1.0) for pixels, or leave it out."
            )
        if self.norm == "sphere" and self.clip is not None:
            raise ConfigError(
                f"Adversarial.clip would take inputs off the sphere, got clip={self.clip} with norm='sphere'. Leave "
                "clip out, or use norm='l2'."
            )
        if self.norm == "sphere" and self.radius > 2:
            raise ConfigError(
                f"Adversarial.radius must be at most 2 with norm='sphere', where no two points are further apart, got "
                f"{self.radius}."
            )

    def inputs(self, gradient: Callable[[Tensor], Tensor], x_CB: Tensor, key_C: Tensor) -> Tensor:
        """The attacked inputs, [C, B, ...]."""
        x_CBd = x_CB.flatten(2)
        self._refuse(x_CBd)
        ball = _BALLS[self.norm]
        alpha = self.step_size or 2 * self.radius / self.steps
        at = self._clipped(ball.start(x_CBd, self.radius, key_C)) if self.random_start else x_CBd
        for _ in range(self.steps):
            ascent = ball.direction(at, gradient(at.view_as(x_CB)).flatten(2))
            at = self._clipped(ball.project(at + alpha * ascent, x_CBd, self.radius))
        return at.view_as(x_CB)

    def _clipped(self, x: Tensor) -> Tensor:
        """Within the limits: nearer to x, which is within them too, so that the ball is not left."""
        return x if self.clip is None else x.clamp(*self.clip)

    def _refuse(self, x_CBd: Tensor) -> None:
        """ConfigError for data that are not where the fields say."""
        if self.norm == "sphere" and bool(((x_CBd.norm(dim=-1) - 1).abs() > 1e-3).any()):
            raise ConfigError(
                "Adversarial.norm 'sphere' needs inputs of length 1, which this data set's are not. Wrap the data, "
                "UnitSphere(data=...), or use norm='l2'."
            )
        if self.clip is None:
            return
        least, most = (v.item() for v in x_CBd.aminmax())
        if least < self.clip[0] or most > self.clip[1]:
            raise ConfigError(
                f"Adversarial.clip is {self.clip}, but this data set's inputs go from {least:g} to {most:g} (they may "
                "be normalised). Give limits that hold for the data, or leave clip out."
            )


class _Linf:
    """{||x' - x||_∞ <= ρ}."""

    @staticmethod
    def start(x: Tensor, radius: float, key_C: Tensor) -> Tensor:
        """A uniform point of the ball."""
        return x + radius * (2 * streams.uniform(key_C, *x.shape[1:]) - 1)

    @staticmethod
    def direction(at: Tensor, grad: Tensor) -> Tensor:
        """The steepest direction of norm 1."""
        return grad.sign()

    @staticmethod
    def project(to: Tensor, x: Tensor, radius: float) -> Tensor:
        """The nearest point of the ball."""
        return x + (to - x).clamp(-radius, radius)


class _L2:
    """{||x' - x||_2 <= ρ}."""

    @staticmethod
    def start(x: Tensor, radius: float, key_C: Tensor) -> Tensor:
        """A uniform point of the ball: a uniform direction, and a radius whose d-th power is uniform."""
        u = streams.uniform(streams.key(key_C, "length"), *x.shape[1:-1], 1)
        return x + radius * u ** (1 / x.shape[-1]) * _unit(streams.normal(key_C, *x.shape[1:]))

    @staticmethod
    def direction(at: Tensor, grad: Tensor) -> Tensor:
        """The steepest direction of norm 1; none where the gradient is zero."""
        return _unit(grad)

    @staticmethod
    def project(to: Tensor, x: Tensor, radius: float) -> Tensor:
        """The nearest point of the ball."""
        away = to - x
        return x + away * (radius / away.norm(dim=-1, keepdim=True).clamp(min=TINY)).clamp(max=1)


class _Cap:
    """{||x'||_2 = 1, ||x' - x||_2 <= ρ} around x of length 1."""

    @staticmethod
    def start(x: Tensor, radius: float, key_C: Tensor) -> Tensor:
        """In a uniform direction, at a uniform distance."""
        chord = radius * streams.uniform(streams.key(key_C, "length"), *x.shape[1:-1], 1)
        return _at_chord(x, streams.normal(key_C, *x.shape[1:]), chord)

    @staticmethod
    def direction(at: Tensor, grad: Tensor) -> Tensor:
        """The steepest direction along the sphere; none where the gradient has no part along it."""
        return _unit(_tangent(at, grad))

    @staticmethod
    def project(to: Tensor, x: Tensor, radius: float) -> Tensor:
        """Back to the sphere and, if that is outside the cap, to its rim."""
        to = _unit(to)
        outside = (to - x).norm(dim=-1, keepdim=True) > radius
        return torch.where(outside, _at_chord(x, to, torch.full_like(x[..., :1], radius)), to)


def _at_chord(x: Tensor, towards: Tensor, chord: Tensor) -> Tensor:
    """The point of the sphere at distance ``chord`` from x, cos θ x + sin θ t with chord = 2 sin(θ/2)."""
    angle = 2 * torch.asin(chord / 2)
    return _unit(angle.cos() * x + angle.sin() * _unit(_tangent(x, towards)))


def _tangent(x: Tensor, v: Tensor) -> Tensor:
    """The part of v orthogonal to x, which has length 1."""
    return v - (v * x).sum(-1, keepdim=True) * x


def _unit(v: Tensor) -> Tensor:
    """The vectors v / ||v||, or 0 where v = 0."""
    return v / v.norm(dim=-1, keepdim=True).clamp(min=TINY)


_BALLS = {"linf": _Linf, "l2": _L2, "sphere": _Cap}
