"""Corruptions of tokens: q(x_t = k | x_0 = j) = alpha_t 1[k = j] + b_t(k), with sum_k b_t(k) = 1 - alpha_t.

Here b_t = c_t pi + m_t 1[MASK]: a share c_t is replaced by draws of a fixed law pi of symbols, a share m_t is masked;
everything costs O(V) and no V x V matrix is built. One step s -> t ends in z from the state k with probability
    lik(k) = a 1[k = z] + b_ts(z),   a = alpha_t / alpha_s,
and two chains share the marginals: memoryless, b_ts = b_t - a b_s, where a mask can be left (GIDD, von Ruette et al.
2025), and `sticky`, where it cannot: 1 - m is multiplied step by step and lik(MASK) = 1[z = MASK] (VQ-Diffusion, Gu et
al. 2021). The reverse of a step is that of every corruption, in `chain`.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from oneprior.times import Time
from oneprior.tokens.chain import Corruption, clock
from oneprior.tokens.keep import Keep, Linear

LINEAR = Linear()
NONE = 1e-20  # in the place of alpha = 0 where masks are the only noise: a token seen at time 1 is certain still


@dataclass(frozen=True)
class Shares(Corruption):
    """Abstract: declares `levels`, which share of tokens is kept, replaced and masked by a time."""

    @property
    def sticky(self) -> bool:
        """Whether a mask once set stays."""
        return False

    @property
    def pi(self) -> Tensor:
        """The law (V,) of a replaced token: uniform over all but the mask."""
        law = torch.ones(self.vocab, dtype=torch.float64)
        if self.mask is not None:
            law[self.mask] = 0
        return law / law.sum()

    @abstractmethod
    def levels(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(kept, replaced, masked), which sum to 1, for a float64 tensor of times."""

    def at(self, t: Time, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`levels` with the axes of tokens `like`, checked."""
        return self.levels(clock(t, like))

    def mass(self, share: Tensor, masked: Tensor) -> Tensor:
        """b = share pi + masked 1[MASK], with an axis V more."""
        b = share[..., None] * self.pi.to(share.device)
        if self.mask is not None:
            b[..., self.mask] += masked
        return b

    def start(self) -> Tensor:
        _, share, masked = self.levels(torch.ones((), dtype=torch.float64))
        law = self.mass(share, masked)
        return law / law.sum()

    def push(self, w: Tensor, t: Time) -> Tensor:
        a, c, m = self.at(t, w[..., 0])
        return a[..., None] * w + self.mass(c, m) * w.sum(-1, keepdim=True)

    def likelihood(self, z: Tensor, t: Time) -> Tensor:
        a, c, m = self.at(t, z)
        out = _plus(self.mass(c, m).expand(*z.shape, -1).gather(-1, z[..., None]), z, a, self.vocab)
        if self.mask is not None:
            out[..., self.mask] = 0
        return out

    def corrupt(self, x0: Tensor, t: Time, u: Tensor) -> Tensor:
        # inverse CDF: keep first, then mask
        a, c, m = (v.expand(x0.shape) for v in self.at(t, x0))
        rest = ((u - a - m) / c.clamp(min=1e-300)).clamp(0, 1)
        cdf = self.pi.to(x0.device).cumsum(0)
        new = torch.searchsorted(cdf, torch.minimum(rest, cdf[-1] * (1 - 1e-15)), right=True)
        if self.mask is not None:
            new = torch.where((u < a + m) | (c <= 0), self.mask, new)
        return torch.where(u < a, x0, new)

    def forward(self, z: Tensor, t: Time, s: Time) -> Tensor:
        (a_t, c_t, m_t), (a_s, c_s, m_s) = self.at(t, z), self.at(s, z)
        a = torch.where(a_s > 0, a_t / a_s, 1.0)  # nothing is kept at s: nothing is left to lose
        if not self.sticky:
            b = self.mass((c_t - a * c_s).clamp(min=0), (m_t - a * m_s).clamp(min=0))
        else:
            g = torch.where(m_s < 1, (m_t - m_s) / (1 - m_s), 0.0).clamp(min=0)
            # of data: c_t = (1 - g) c_s + a_s share, which loses nothing where hardly a token is replaced
            share = torch.where(a_s > 0, (c_t - (1 - g) * c_s) / a_s, 0.0)
            b = self.mass(share.clamp(min=0), g)
        out = _plus(b.expand(*z.shape, -1).gather(-1, z[..., None]), z, a, self.vocab)
        if self.sticky and self.mask is not None:
            out[..., self.mask] = (z == self.mask).to(out)
        return out

    def rates(self, z: Tensor, t: Time) -> Tensor:
        tt = clock(t, z)
        jvp: Any = torch.func.jvp
        (a, c, m), (da, dc, dm) = jvp(self.levels, (tt,), (torch.ones_like(tt),))
        if self.sticky:
            g = dm / (1 - m)
            b = self.mass(-da / a - g, g)
        else:
            b = self.mass(dc - da / a * c, dm - da / a * m)
        out = b.expand(*z.shape, -1).gather(-1, z[..., None]).expand(*z.shape, self.vocab).clone()
        if self.sticky and self.mask is not None:
            out[..., self.mask] = 0
        return out.scatter_(-1, z[..., None], 0.0)


def _plus(b: Tensor, x: Tensor, a: Tensor, vocab: int = -1) -> Tensor:
    """b (..., V or 1) + a 1[k = x], (*x.shape, V), in one piece of memory."""
    out = b.expand(*x.shape, vocab).clone()
    return out.scatter_add_(-1, x[..., None], a.expand(x.shape)[..., None])


@dataclass(frozen=True)
class Absorbing(Shares):
    """b_t = (1 - alpha_t) on the mask, the last symbol (Austin et al. 2021; Sahoo et al. 2024, MDLM)."""

    keep: Keep = LINEAR

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a = self.keep.alpha(t).clamp(min=NONE)
        return a, torch.zeros_like(a), 1 - a


@dataclass(frozen=True)
class Uniform(Shares):
    """b_t(k) = (1 - alpha_t) / V, without a mask (Hoogeboom et al. 2021)."""

    keep: Keep = LINEAR

    @property
    def mask(self) -> int | None:
        return None

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a = self.keep.alpha(t)
        return a, 1 - a, torch.zeros_like(a)


@dataclass(frozen=True)
class Marginal(Uniform):
    """b_t = (1 - alpha_t) pi with pi the frequencies of the symbols, any positive numbers (Vignac et al. 2022)."""

    frequencies: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.frequencies) != self.vocab or min(self.frequencies) < 0 or sum(self.frequencies) <= 0:
            raise ValueError(f"{len(self.frequencies)} frequencies came; {self.vocab} numbers >= 0 were expected")

    @property
    def pi(self) -> Tensor:
        f = torch.tensor(self.frequencies, dtype=torch.float64)
        return f / f.sum()


@dataclass(frozen=True)
class Hybrid(Shares):
    """alpha = (1 - t) / C, masked t / C, replaced c_t / C; c_t = B (t (1 - t))^(gamma / 2), C = 1 + c_t (GIDD).

    B = 2^gamma p_u / (1 - p_u): at t = 1/2 a share p_u of all tokens is uniform noise; p_u = 0 is `Absorbing`.
    """

    p_uniform: float = 0.1
    gamma: float = 1.0

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        c = 2**self.gamma * self.p_uniform / (1 - self.p_uniform) * (t * (1 - t)) ** (self.gamma / 2)
        return (1 - t) / (1 + c), c / (1 + c), t / (1 + c)


@dataclass(frozen=True)
class MaskReplace(Shares):
    """Mask and replace: alpha falls linearly to `floor`, masks rise to masked_end, replaced take the rest.

    masked_end 0.9 with floor 0 is the paper's; the released code has floor 9e-6 and masked_end 0.99999, which hardly
    replaces at all (Gu et al. 2021). stay: the published chain, whose masks stay; False is the memoryless one.
    """

    masked_end: float = 0.9
    floor: float = 0.0
    stay: bool = True

    @property
    def sticky(self) -> bool:
        return self.stay

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        masked = self.masked_end * t
        kept = 1 - (1 - self.floor) * t
        return kept, (1 - self.floor - self.masked_end) * t, masked
