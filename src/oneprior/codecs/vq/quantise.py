r"""Quantisers: vectors to the nearest of K codes, and a gradient through that.

A learned codebook (van den Oord et al. 2017) with the codes as running means of what chose them (Razavi et al. 2019):
    N <- d N + (1 - d) count,  S <- d S + (1 - d) sum z,  e_k = S_k / n_k,  n_k = (N_k + eps) sum N / (sum N + K eps).
A code with N < reset mean N becomes a vector of the step (Dhariwal et al. 2020): without this most codes die.
Gradient: straight through, or rotated (Fifty et al. 2024): out = |e| / |z| R z with R, that turns z to e, a constant.
FSQ (Mentzer et al. 2023): each channel tanh-bounded and rounded to its levels; no losses, no codes to die.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneprior.codecs.vq.config import VQConfig
from oneprior.noise import uniform

EPS = 1e-5


class Quantised(NamedTuple):
    """out (..., d), with a gradient to what came in; indices (...,) int64; loss (...,), to add to the others."""

    out: Tensor
    indices: Tensor
    loss: Tensor


class Quantiser(Protocol):
    """What turns vectors (..., d) into one of K codes, `table` (K, d).

    update(n): n samples into a training, behind the optimiser's step: learn from what came since the last call.
    """

    def table(self) -> Tensor: ...
    def __call__(self, z: Tensor) -> Quantised: ...
    def update(self, n: int) -> None: ...


def project(z: Tensor, config: VQConfig) -> Tensor:
    """Vectors (..., d) to where the codes live: a box for FSQ, a sphere for `cosine`, else as they are. float32."""
    z = z.float()
    return z.tanh() if config.levels else F.normalize(z, dim=-1) if config.cosine else z


def nearest(z: Tensor, codes: Tensor) -> Tensor:
    """Index of the nearest code (K, d) to each vector (..., d), in float32 or better."""
    z, codes = (v.detach().to(torch.promote_types(v.dtype, torch.float32)) for v in (z, codes))
    with torch.autocast(z.device.type, enabled=False):
        far = torch.addmm(codes.square().sum(1), z.reshape(-1, z.shape[-1]), codes.T, alpha=-2)
    return far.argmin(1).reshape(z.shape[:-1])


def straight(z: Tensor, e: Tensor) -> Tensor:
    """e, with the gradient of z."""
    return z + (e - z).detach()


def rotate(z: Tensor, e: Tensor) -> Tensor:
    """e, with the gradient of z turned as z is turned to e, and scaled by |e| / |z|."""
    length = z.detach().norm(dim=-1, keepdim=True).clamp(min=EPS)
    zh, eh = z.detach() / length, F.normalize(e.detach(), dim=-1)
    w = F.normalize(zh + eh, dim=-1)
    turned = z - 2 * w * (w * z).sum(-1, keepdim=True) + 2 * eh * (zh * z).sum(-1, keepdim=True)
    return turned * (e.detach().norm(dim=-1, keepdim=True) / length)


class Codebook(nn.Module):
    """A learned codebook. Its first vectors in training are its first codes.

    The state dict holds all that a resumed training needs; what replaces a code is a function of (config.seed, n) and
    of the step's vectors. In training mode every call with gradients is remembered until `update`.
    """

    total: Tensor
    sums: Tensor
    begun: Tensor

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.config = config
        self.codes = nn.Parameter(torch.zeros(config.codes, config.dim), requires_grad=config.decay is None)
        self.register_buffer("total", torch.zeros(config.codes))
        self.register_buffer("sums", torch.zeros(config.codes, config.dim))
        self.register_buffer("begun", torch.zeros((), dtype=torch.bool))
        self._seen: list[tuple[Tensor, Tensor]] = []  # of this step; empty between steps

    def table(self) -> Tensor:
        return project(self.codes, self.config)

    def forward(self, z: Tensor) -> Quantised:
        z = project(z, self.config)
        flat = z.detach().reshape(-1, z.shape[-1])
        if self.training and not self.begun:
            self._begin(flat)
        index = nearest(z, codes := self.table())
        e = codes[index]
        if self.training and torch.is_grad_enabled():
            self._seen.append((flat, index.reshape(-1)))
        loss = self.config.commit * (z - e.detach()).square().mean(-1)
        if self.codes.requires_grad:
            loss = loss + (z.detach() - e).square().mean(-1)
        if not z.requires_grad:  # a frozen encoder: nothing to send on, but the codes may learn
            return Quantised(e, index, loss)
        return Quantised((rotate if self.config.rotate else straight)(z, e), index, loss)

    @torch.no_grad()
    def update(self, n: int) -> None:
        """Running means, then new places for codes that nothing chooses. A step with a NaN in it teaches nothing."""
        c, seen = self.config, self._seen
        if not seen:
            return
        z, index = (torch.cat(part) for part in zip(*seen, strict=True))
        seen.clear()
        count = torch.bincount(index, minlength=c.codes).to(z.dtype)
        sums = torch.zeros_like(self.sums).index_add_(0, index, z)
        if _several():  # each process saw its share
            torch.distributed.all_reduce(count)
            torch.distributed.all_reduce(sums)
        if not sums.isfinite().all():
            return
        d = 0.95 if c.decay is None else c.decay
        self.total.lerp_(count, 1 - d)
        self.sums.lerp_(sums, 1 - d)
        if c.decay is not None:
            whole = self.total.sum()
            smooth = (self.total + EPS) * (whole / (whole + c.codes * EPS))
            self.codes.copy_(project(self.sums / smooth[:, None], c))
        even = self.total.mean()
        if len(dead := (self.total < c.reset * even).nonzero()[:, 0]):
            new = self._some(z, len(dead), n)
            self.codes[dead], self.sums[dead], self.total[dead] = new, new * even, even

    @torch.no_grad()
    def _begin(self, z: Tensor) -> None:
        self.codes.copy_(self._some(z, len(self.codes), 0))
        self.total.fill_(len(z) / len(self.codes))
        self.sums.copy_(self.codes * self.total[:, None])
        self.begun.fill_(True)

    def _some(self, z: Tensor, count: int, n: int) -> Tensor:
        """`count` vectors of z, distinct places while there are enough; those of the first process for all."""
        order = torch.from_numpy(uniform(self.config.seed, "codes", n, (len(z),)).argsort())
        new = z[order[torch.arange(count) % len(z)].to(z.device)].contiguous()
        if _several():
            torch.distributed.broadcast(new, 0)
        return new


class FSQ(nn.Module):
    """Rounding: channel i to `levels[i]` equally spaced values in [-1, 1]; index in mixed radix, channel 0 fastest."""

    levels: Tensor
    radix: Tensor

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.config, levels = config, config.levels
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer("radix", torch.tensor([1, *levels[:-1]]).cumprod(0), persistent=False)

    def table(self) -> Tensor:
        return self.code(torch.arange(int(self.levels.prod()), device=self.levels.device))

    def forward(self, z: Tensor) -> Quantised:
        z = project(z, self.config)
        digits = ((z.detach() + 1) / 2 * (self.levels - 1)).round().long()
        index = (digits * self.radix).sum(-1)
        return Quantised(straight(z, self.code(index)), index, torch.zeros_like(z[..., 0]))

    def code(self, index: Tensor) -> Tensor:
        """The code (..., d) of an index (...,)."""
        digits = index[..., None] // self.radix % self.levels
        return 2 * digits.float() / (self.levels - 1) - 1

    def update(self, n: int) -> None:
        """There is nothing to learn."""


def quantiser(config: VQConfig) -> FSQ | Codebook:
    """The quantiser that a config describes."""
    return FSQ(config) if config.levels else Codebook(config)


def usage(index: Tensor, codes: int) -> float:
    """Share of a codebook that an array of indices uses at least once."""
    return len(torch.unique(index)) / codes


def perplexity(index: Tensor) -> float:
    """exp of the entropy of the frequencies of an array of indices: as many codes, all as likely, would say as much."""
    count = torch.unique(index, return_counts=True)[1].double()
    p = count / count.sum()
    return float((-(p * p.log()).sum()).exp())


def _several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
