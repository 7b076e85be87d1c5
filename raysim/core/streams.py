"""Counter-based random numbers: a pure hash of (seed, round, client, purpose, position).

Nothing here has state, so a number is the same in whatever order, on whatever actor and device it is asked for.
The hash is the finaliser of SplitMix64 (Steele, Lea, Flood 2014, https://doi.org/10.1145/2714064.2660195), applied
once per key part and once per position. Torch has no unsigned 64-bit arithmetic everywhere, so it runs on int64, whose
products and sums wrap around, with the shifts made logical by a mask.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator

import torch
from torch import Tensor


def _signed(x: int) -> int:
    """A 64-bit constant as the int64 with the same bits."""
    x &= (1 << 64) - 1
    return x - (1 << 64) if x >> 63 else x


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MUL1 = _signed(0xBF58476D1CE4E5B9)
_MUL2 = _signed(0x94D049BB133111EB)


def _shifted(z: Tensor, bits: int) -> Tensor:
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64 bits: a bijection whose output looks independent of its input."""
    z = (z ^ _shifted(z, 30)) * _MUL1
    z = (z ^ _shifted(z, 27)) * _MUL2
    return z ^ _shifted(z, 31)


def key(*parts: int | str | Tensor, device: torch.device | str | None = None) -> Tensor:
    """One int64 key from integers, words and integer tensors, broadcast: ``key(seed, round, "batches", ids_C)``."""
    z = torch.zeros((), dtype=torch.int64, device=device)
    for part in parts:
        if isinstance(part, str):
            part = zlib.crc32(part.encode())
        value = part if isinstance(part, Tensor) else torch.tensor(_signed(part), device=device)
        z = mix((z ^ value.to(torch.int64)) + _GOLDEN)
    return z


def bits(key: Tensor, *shape: int) -> Tensor:
    """Random int64 for every position: shape ``[*key.shape, *shape]``."""
    count = 1
    for n in shape:
        count *= n
    position = torch.arange(1, count + 1, dtype=torch.int64, device=key.device).view(shape)
    return _mixed(key.view(*key.shape, *[1] * len(shape)) + position * _GOLDEN)


def _mixed(z: Tensor) -> Tensor:
    """``mix`` in the tensor's own memory: fresh memory for every operation would take half as long again."""
    z.bitwise_xor_((z >> 30).bitwise_and_((1 << 34) - 1)).mul_(_MUL1)
    z.bitwise_xor_((z >> 27).bitwise_and_((1 << 37) - 1)).mul_(_MUL2)
    return z.bitwise_xor_((z >> 31).bitwise_and_((1 << 33) - 1))


def uniform(key: Tensor, *shape: int) -> Tensor:
    """Uniform float32 in [0, 1), multiples of 2^-24, the same bits on every device."""
    return (
        bits(key, *shape)
        .bitwise_right_shift_(40)
        .bitwise_and_((1 << 24) - 1)
        .to(torch.float32)
        .mul_(2.0**-24)
    )


def normal(key: Tensor, *shape: int) -> Tensor:
    """Standard normal float32 by Box-Muller, in float64 inside so that the tails reach 8 standard deviations."""
    z = bits(key, *shape, 2)
    u = _open(z)
    radius = (-2 * u[..., 0].log()).sqrt()
    return (radius * (2 * torch.pi * u[..., 1]).cos()).to(torch.float32)


def integers(key: Tensor, high: int, *shape: int) -> Tensor:
    """Integers in [0, high). The bias of the remainder is below high / 2^63."""
    return _shifted(bits(key, *shape), 1) % high


def permutation(key: Tensor, length: int) -> Tensor:
    """A uniform random order of 0..length-1 for every key: shape ``[*key.shape, length]``."""
    return torch.argsort(bits(key, length), dim=-1, stable=True)


def choice(key: Tensor, number: int, size: int) -> Tensor:
    """``size`` distinct integers of 0..number-1, uniform, in increasing order."""
    return torch.sort(torch.topk(bits(key, number), size, sorted=False).indices).values


def gamma(key: Tensor, alpha: float, *shape: int) -> Tensor:
    """Gamma(alpha, 1) variates, float64."""
    return log_gamma_variate(key, alpha, *shape).exp()


def log_gamma_variate(key_: Tensor, alpha: float, *shape: int) -> Tensor:
    """Logarithm of Gamma(alpha, 1) variates, float64: exact where a small alpha makes the variate itself underflow.

    Marsaglia and Tsang's rejection (ACM TOMS 2000, https://doi.org/10.1145/358407.358414), which accepts more than
    95 % of tries: two for every position, 30 more for the few that need them. For alpha < 1 it is
    Gamma(alpha + 1) u^(1/alpha).
    """
    key_e, boosted = bits(key_, *shape).flatten(), alpha + 1 if alpha < 1 else alpha
    log_g, fits = _gamma_tries(key_e, boosted, 2, 0)
    again = ~fits
    log_g[again] = _gamma_tries(key_e[again], boosted, 30, 2)[0]
    if alpha < 1:
        log_g += _open(bits(key(key_e, "boost"), 1)[:, 0]).log() / alpha
    return log_g.view(*key_.shape, *shape)


def _gamma_tries(key_e: Tensor, alpha: float, tries: int, skip: int) -> tuple[Tensor, Tensor]:
    """The first accepted of some tries, alpha >= 1: log variate and whether there was one."""
    d = alpha - 1 / 3
    c = 1 / (9 * d) ** 0.5
    x = normal(key(key_e, "normal", skip), tries).to(torch.float64)
    u = _open(bits(key(key_e, "accept", skip), tries))
    v = (1 + c * x) ** 3
    fits = (v > 0) & (u.log() < 0.5 * x * x + d - d * v + d * v.clamp(min=1e-300).log())
    first = fits.to(torch.int8).argmax(-1, keepdim=True)
    return (d * v.gather(-1, first)[:, 0].clamp(min=1e-300)).log(), fits.any(-1)


def _open(z: Tensor) -> Tensor:
    """Uniform float64 strictly between 0 and 1."""
    return (_shifted(z, 11).to(torch.float64) + 0.5) * 2.0**-53


@contextlib.contextmanager
def torch_default(key: Tensor) -> Iterator[None]:
    """Inside, torch's own generator (which layers initialise themselves from) starts at ``key``; outside, untouched."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(int(key) & ((1 << 63) - 1))
    try:
        yield
    finally:
        torch.set_rng_state(before)
