"""Local intrinsic dimension (LID) of the data at x_0, read off a denoiser, as a curve over times t_0 and one estimate.

FLIPD (Kamkari et al. 2024), at m = a x_0 without noise, how log p_delta, of x_0 + delta eps, grows with log delta:
    FLIPD = d + s^2 (tr grad score(m) + |score(m)|^2) = a tr J(m) + |m - a D(m)|^2 / s^2.
LIDL (Tempczyk et al. 2022): d plus the slope of log p_delta(x_0) fitted against log delta; by the line above,
log p_delta is the integral of FLIPD - d, so no ODE is solved.
Normal bundle (Stanczuk et al. 2024): scores of x_0 noised to t_0 span the normal space; it ends at the largest gap of
their singular values. Their mean, tangent but for curvature, is taken off: where s_0 is not tiny it hides in the gap.
Flow map (Horvat and Pfister 2024): of d x_t0 / d x_1 along the ODE through x_0 as many singular values stay as the data
has dimensions, and the others vanish. With the u and lam of `uses.likelihood`, dY/dlam = c (J - c) Y.
Trained networks are wild near t_0 = 0 and see no detail at large t_0: look at the curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from math import asinh, cosh, sinh
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from oneprior.denoiser import Denoiser
from oneprior.noise import Seeded
from oneprior.uses.errors import check_density
from oneprior.uses.geometry.jacobian import Jacobian
from oneprior.uses.likelihood import NOISIEST, dot

TIMES = (0.02, 0.03, 0.05, 0.07, 0.1, 0.14, 0.2, 0.3)


class Dimension(NamedTuple):
    """x: (B,) float64, the estimate; curve: (T, B), one row a time; t: the times, rising."""

    x: Tensor
    curve: Tensor
    t: tuple[float, ...]


class Method(Protocol):
    def __call__(
        self, den: Denoiser, x0: Tensor, t0: Sequence[float], count: int | None, seeds: Sequence[int], **cond: Any
    ) -> Tensor: ...


def dimension(
    den: Denoiser,
    x0: Tensor,
    method: str = "flipd",
    *,
    t0: Sequence[float] = TIMES,
    count: int | None = None,
    seeds: Sequence[int] | None = None,
    **cond: Any,
) -> Dimension:
    """Local intrinsic dimension at x0 (B, *), in model range.

    method: "flipd" (d backward passes a time, or `count` probes), "lidl" (the same), "normal_bundle" (`count` noised
    copies, 4 d without) or "flow_map" (4 * 48 * d products in all). t0: rising times. seeds: one a sample. The estimate
    is the mean of those two neighbours on the curve that agree best; of LIDL, the fitted slope.

    Raises:
        ValueError: for an unknown method, times that do not rise within (0, 1), fewer than two, or no density.
    """
    check_density(den)
    if method not in METHODS:
        raise ValueError(f"method '{method}' is not known; one of {sorted(METHODS)} was expected")
    times = tuple(float(t) for t in t0)
    if len(times) < 2 or list(times) != sorted(set(times)) or not 0 < times[0] <= times[-1] < 1:
        raise ValueError(f"t0 = {times}: at least two times that rise within (0, 1) were expected")
    seeds = range(len(x0)) if seeds is None else seeds
    curve = METHODS[method](den, x0, times, count, seeds, **cond)
    if method == "lidl":
        logs = torch.tensor([-den.schedule.lam(t) for t in times], dtype=torch.float64)
        logp = torch.cumulative_trapezoid(curve, logs.to(curve.device), dim=0)
        w = (logs - logs.mean())[1:].to(curve)  # the first value of the integral is 0
        return Dimension(w @ logp / (logs - logs.mean()).square().sum(), curve, times)
    near = curve.diff(dim=0).abs().argmin(0, keepdim=True)
    return Dimension((curve.gather(0, near) + curve.gather(0, near + 1))[0] / 2, curve, times)


def flipd(
    den: Denoiser, x0: Tensor, t0: Sequence[float], count: int | None, seeds: Sequence[int], **cond: Any
) -> Tensor:
    """(T, B) float64."""
    out = []
    for t in t0:
        a, _, s = den.schedule.at(t)
        J = Jacobian(den, a * x0, t, **cond)
        rest = (x0 - J.mean) * (a / s)
        out.append(a * J.trace(count, seeds, "flipd") + dot(rest, rest))
    return torch.stack(out)


@torch.no_grad()
def normal_bundle(
    den: Denoiser, x0: Tensor, t0: Sequence[float], count: int | None, seeds: Sequence[int], **cond: Any
) -> Tensor:
    """(T, B) float64. As many singular values as copies at most: `count` of d or more."""
    d = x0[0].numel()
    if (count := 4 * d if count is None else count) < d:
        raise ValueError(f"count = {count}: the normal space of {d} dimensions wants at least as many noised copies")
    noise, out = Seeded(seeds, "normal bundle"), []
    for t in t0:
        a, _, s = den.schedule.at(t)
        each = [den(a * x0 + s * noise(k, x0), t, **cond).eps.flatten(1) for k in range(count)]
        scores = torch.stack(each, 1).double()
        values = torch.linalg.svdvals(scores - scores.mean(1, keepdim=True))
        out.append(d - 1.0 - (values[:, :-1] - values[:, 1:]).argmax(1))
    return torch.stack(out).double()


def flow_map(
    den: Denoiser,
    x0: Tensor,
    t0: Sequence[float],
    count: int | None,
    seeds: Sequence[int],
    *,
    values: bool = False,
    **cond: Any,
) -> Tensor:
    """(T, B) float64: singular values before the largest gap of their logarithms. values: these themselves, (T, B, d).

    RK4 from t0[0], where x_0 is taken as x_t / a, up to the noise; then d x_t0 / d x_1 = Y(t0) Y(1)^-1.
    """
    B, d, shape, schedule = len(x0), x0[0].numel(), x0.shape[1:], den.schedule
    last = max(schedule.lam(den.facts.t_range[1]), NOISIEST)

    def slope(q: float, u: Tensor, Y: Tensor) -> tuple[Tensor, Tensor]:
        lam = 1 + 2 * sinh(q)  # dense where a Gaussian's flow turns
        t = schedule.time(lam)
        a, _, s = schedule.at(t)
        n = (a * a + s * s) ** 0.5
        J, c, rate = Jacobian(den, n * u, t, **cond), a / n, 2 * cosh(q)
        turned = J.wide(d).forward(n * Y.mT.reshape(B * d, *shape)).reshape(B, d, d).mT
        return rate * c * (J.mean - c * u), rate * c * (turned - c * Y)

    lams = [*(schedule.lam(t) for t in t0), last]
    q = [asinh((lam - 1) / 2) for lam in lams]
    a, _, s = schedule.at(t0[0])
    u, Y = x0 * (a / (a * a + s * s) ** 0.5), torch.eye(d, dtype=x0.dtype, device=x0.device).expand(B, d, d)
    found = [Y]
    for start, end in pairwise(q):
        n = max(2, round(48 * (start - end) / (q[0] - q[-1])))
        h = (end - start) / n
        for i in range(n):
            z, k = start + i * h, list[tuple[Tensor, Tensor]]()
            for part in (0.0, 0.5, 0.5, 1.0):
                du, dY = k[-1] if k else (0.0, 0.0)
                k.append(slope(z + part * h, u + part * h * du, Y + part * h * dY))
            u, Y = (v + h / 6 * (p + 2 * r + 2 * w + e) for v, p, r, w, e in zip((u, Y), *k, strict=True))
        found.append(Y)
    scale = [sum(v * v for v in schedule.at(schedule.time(lam))[::2]) ** 0.5 for lam in lams]
    end = found[-1].double()
    maps = [
        torch.linalg.solve(end, y.double(), left=False) * (n / scale[-1]) for y, n in zip(found, scale, strict=True)
    ]
    s_ = torch.stack([torch.linalg.svdvals(m) for m in maps[:-1]])
    if values:
        return s_
    logs = s_.clamp(min=1e-300).log()
    return (logs[..., :-1] - logs[..., 1:]).argmax(-1).double() + 1


METHODS: dict[str, Method] = {
    "flipd": flipd,
    "lidl": flipd,
    "normal_bundle": normal_bundle,
    "flow_map": partial(flow_map, values=False),
}
