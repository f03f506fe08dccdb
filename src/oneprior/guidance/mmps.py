"""Moment-matching posterior sampling, MMPS (Rozet et al. 2024, arXiv 2405.13712): a denoiser given a measurement.

With y = A(x_0) + noise of variance R, and x_0 | x_t taken as Gaussian with the mean D and covariance V it has,
    D_y = E[x_0 | x_t, y] = D + V A^T (R + A V A^T)^-1 (y - A D),    V = Cov[x_0 | x_t] = (s^2 / a) J^T,
J = dD/dx_t (Tweedie's second formula; a, s may differ from element to element). Exact whenever the prior is Gaussian.

V is never formed: V u = (s^2 / a) J^T u is one backward pass, and the system is solved by least residuals (`gmres`), a
sample each. For an exact denoiser V is symmetric; that of a trained network is nearly so, and may have directions of
negative variance: conjugate gradients then end after a step or two, far from y. What is antisymmetric in A V A^T, error
for certain, measures how far the rest can be trusted, and damps the solve. Where u^T (R + A V A^T) u is not positive u
is not taken: with none, D_y = D.

Two cheaper guesses of the covariance inside the system alone, neither exact: r^2 I, PiGDM (Song et al. 2023), and for
A V A^T the diagonal of its row sums, TMPD (Boys et al. 2024).

Given noise, the mean is a *draw* of N(D_y, C_y) instead (perturb, then solve: Papandreou and Yuille 2010):
    z = D + V^(1/2) n_1,    x_0 = z + V A^T (R + A V A^T)^-1 (y + R^(1/2) n_2 - A z).
An ancestral step from it, q(x_s | x_t, x_0), is exact on Gaussians at any number of steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from oneprior.denoiser import Denoiser, Wrapper
from oneprior.guidance.tweedie import informed
from oneprior.noise import Noise
from oneprior.operators import Measurement, cg, gmres
from oneprior.operators.base import Local
from oneprior.operators.solve import root
from oneprior.posterior import Posterior
from oneprior.times import Time, align

Linear = Callable[[Tensor], Tensor]
DOUBT = 0.1  # 0.03 to 0.25 did alike on a trained prior


class MMPS(Wrapper):
    """`inner` given a measurement; works with every sampler, one call of `inner` and `iterations` + 1 backward passes.

    measurement: in model range, for a batch of the size of x (`Measurement.repeat` makes several draws of each).
    iterations: of the solver at most (the paper takes 1 to 3; an exact answer needs as many as y has elements); tol:
    relative residual at which a sample stops. noise: then the mean is a draw, V^(1/2) from `rank`
    Lanczos steps, each one more backward pass; meant for DDIM(1.0). Conditions pass through to `inner`.

    Where alpha < 0.01 the denoiser is asked at the time at which alpha is that: at alpha = 0 the Jacobian is 0, and
    before, s^2 / a multiplies whatever errors a trained one has.
    The result is detached: samples are not differentiated through the solve.

    Example:
        >>> x = sample(MMPS(den, Measurement(y, Mask(mask), 0.1)), y.shape, steps=50)
    """

    def __init__(
        self,
        inner: Denoiser,
        measurement: Measurement,
        *,
        iterations: int = 5,
        tol: float = 1e-3,
        noise: Noise | None = None,
        rank: int = 8,
    ) -> None:
        for name, value in (("iterations", iterations), ("rank", rank)):
            if value < 1:
                raise ValueError(f"{name} = {value}: at least one step was expected")
        super().__init__(inner, density=False)
        self.measurement, self.iterations, self.tol, self.noise, self.rank = measurement, iterations, tol, noise, rank
        self._calls = 0  # of a trajectory

    def state(self, path: Any) -> dict[str, Any] | None:
        return None if self.noise is None else {"_calls": 0}

    def solve(self, A: Local, R: Any, V: Linear, rest: Tensor, level: Any) -> Tensor:
        """u with (R + A C A^T) u = rest, like y. level: (s / a)^2."""
        return gmres(lambda u: R * u + A.forward(V(A.adjoint(u))), rest, self.iterations, self.tol, DOUBT)

    def posterior(self, x: Tensor, t: Time, **cond: Any) -> Posterior:
        asked = informed(self.schedule, t)
        a, _, s = self.schedule.at(asked)
        ratio = align(s * s / a, x)
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            post = self.inner(at, asked, **cond)
        D = post.mean.detach()

        def V(u: Tensor) -> Tensor:
            if not post.mean.requires_grad:  # D does not depend on x: nothing is uncertain
                return torch.zeros_like(u)
            grad = torch.autograd.grad(post.mean, at, u, retain_graph=True, allow_unused=True)[0]
            return torch.zeros_like(u) if grad is None else ratio * grad

        with torch.no_grad():
            y, R = like(self.measurement, x)
            A = self.measurement.operator.at(D)
            rest, more = y - A.value, torch.zeros_like(D)
            if self.noise is not None:
                rest, more = self._perturbed(A, R, V, rest, x)
            moved = more + V(A.adjoint(self.solve(A, R, V, rest, ratio / align(a, x))))
            fine = moved.isfinite().flatten(1).all(1).reshape(-1, *(1,) * (x.ndim - 1))
            return Posterior(torch.where(fine, D + moved, D), x, self.schedule, t, None, post.y)

    def _perturbed(self, A: Local, R: Any, V: Linear, rest: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """y + R^(1/2) n_2 - A z and z - D."""
        assert self.noise is not None
        self._calls += 1
        more = root(V, self.noise(self._calls, x, "posterior"), self.rank)
        n = self.noise(self._calls, rest, "measured")
        n = n * (A.forward(A.adjoint(n)) != 0)  # what was not measured needs no noise, and would cost iterations
        return rest - A.forward(more) + R**0.5 * n, more


class PiGDM(MMPS):
    """Pseudo-inverse guidance: C = r^2 I, r^2 = s^2 / (a^2 + s^2), right for white data of unit variance.

    One backward pass a call; the system needs none. For noise-free y it is the published J^T A^+ (y - A D).
    """

    def solve(self, A: Local, R: Any, V: Linear, rest: Tensor, level: Any) -> Tensor:
        r = level / (1 + level)
        return cg(lambda u: R * u + A.forward(r * A.adjoint(u)), rest, self.iterations, self.tol)


class TMPD(MMPS):
    """Tweedie moment projection: A V A^T by its row sums A V A^T 1; two backward passes a call."""

    def solve(self, A: Local, R: Any, V: Linear, rest: Tensor, level: Any) -> Tensor:
        total = R + A.forward(V(A.adjoint(torch.ones_like(rest)))).clamp(min=0)
        return torch.where(total > 0, rest / total, 0.0)


def like(measurement: Measurement, x: Tensor) -> tuple[Tensor, float | Tensor]:
    y, R = measurement.y.to(x), measurement.variance
    if len(y) not in (1, len(x)):
        raise ValueError(
            f"a measurement of {len(y)} samples for a batch of {len(x)}: Measurement.repeat(n) makes n draws of each, "
            "and guidance that doubles the batch goes inside, MMPS(CFG(den, scale), measurement)"
        )
    return y, R.to(x) if isinstance(R, Tensor) else R
