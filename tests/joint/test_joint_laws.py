"""Joint samples, marginals and conditionals of exact joint laws, continuous and mixed (multi-task, proofs 1 and 2)."""

from math import sqrt
from typing import Any

import pytest
import torch
from joint_laws import COVS, K5, M5, MEANS, PI, Gaussians, Labelled, OfClass
from torch import Tensor

from helpers import affine
from oneprior.joint import Noisy, chain, given
from oneprior.noise import Fresh, Seeded
from oneprior.paths import Path, restart, sync
from oneprior.sampling import SAMPLERS, sample, walk
from oneprior.sampling.solvers import DDIM, Heun
from oneprior.tokens import Hybrid, Uniform

N = 40_000


def near(x: Tensor, mean: Tensor, cov: Tensor) -> None:
    """Mean within 4.5 standard errors; covariance within 3 % of its size (4 standard errors of 40,000 samples)."""
    error = (x.double().mean(0) - mean).abs() / (cov.diagonal() / len(x)).sqrt()
    assert float(error.max()) < 4.5, error
    off = torch.cov(x.double().T) - cov
    size = torch.outer(cov.diagonal(), cov.diagonal()).sqrt()
    assert float((off / size).abs().max()) < 0.03, off / size


def conditional(y: Tensor, R: Any = 0.0) -> tuple[Tensor, Tensor]:
    """Regression mean and Schur complement of x given y seen with variance R."""
    gain = K5[:3, 3:] @ torch.linalg.inv(K5[3:, 3:] + R * torch.eye(2).double())
    m = M5.double()
    return m[:3] + gain @ (y - m[3:]), K5[:3, :3] - gain @ K5[3:, :3]


def draw(n: int = N, values: dict[str, Any] | None = None, parts: Any = None, **how: Any) -> dict[str, Tensor]:
    den, how = Gaussians(), {"steps": 50, "sampler": "2m", **how}
    hold = given(den, values or {}, n, parts)
    return sample(den, {"x": (n, 3), "y": (n, 2)}, seeds=range(n), hold=hold, **how)


def test_joint_samples_have_the_full_covariance() -> None:
    x = draw()
    near(torch.cat([x["x"], x["y"]], 1), M5.double(), K5)


def test_given_y_samples_have_the_regression_mean_and_the_schur_complement() -> None:
    y = torch.tensor([1.0, -0.3])
    x = draw(values={"y": y})
    assert torch.equal(x["y"], y.expand(N, 2))
    near(x["x"], *conditional(y.double()))


def test_a_part_at_time_1_leaves_the_marginal() -> None:
    near(draw(parts=("x",))["x"], M5[:3].double(), K5[:3, :3])


def test_a_soft_condition_is_that_of_the_noisy_value() -> None:
    """Given y at time t the law is that given a y + s eps, eps drawn; over eps it spreads by gain s^2 / a^2 gain'."""
    y, t = torch.tensor([1.0, -0.3]).double(), 0.4
    r = (t / (1 - t)) ** 2  # of rectified flow
    mean, cov = conditional(y, r)
    gain = K5[:3, 3:] @ torch.linalg.inv(K5[3:, 3:] + r * torch.eye(2).double())
    x = draw(values={"y": Noisy(y.float(), t)})
    near(x["x"], mean, cov + r * gain @ gain.mT)
    assert float((x["y"].var(0) - t * t).abs().max()) < 0.02 and float(x["y"].mean(0)[0]) == pytest.approx(
        0.6, abs=0.03
    )


def test_the_exact_map_of_a_conditional() -> None:
    """Without sampling error: the affine map of a deterministic sampler, within 0.2 % at 200 steps."""
    y, den = torch.tensor([1.0, -0.3]).double(), Gaussians()

    shape = {"x": (4, 3), "y": (4, 2)}

    def run(z: Tensor) -> Tensor:
        n = len(z)
        hold = given(den, {"y": y}, n)
        start = {"x": z, "y": torch.zeros(n, 2).double()}
        return sample(den, shape, steps=200, sampler="2m", seeds=range(n), start=start, hold=hold)["x"]

    c, M = affine(run, (3,))
    mean, cov = conditional(y)
    assert float((c - mean).abs().max()) < 1e-6 and float((M @ M.mT - cov).abs().max()) < 2e-3


# ---- a label beside a Gaussian a class ------------------------------------------------------------------------------


def labelled(n: int, values: dict[str, Any] | None = None, den: Any = None, **how: Any) -> dict[str, Tensor]:
    den = den or Labelled()
    hold = given(den, values or {}, n, how.pop("parts", None))
    how = {"steps": 40, "sampler": "2m", **how}
    return sample(den, {"point": (n, 2), "label": (n, 1)}, seeds=range(n), hold=hold, **how)


def shares(label: Tensor) -> Tensor:
    return torch.bincount(label.flatten(), minlength=3).double() / len(label)


def joint_law(x: dict[str, Tensor], slack: float = 0.0) -> None:
    n = len(x["label"])
    error = (shares(x["label"])[:3] - PI).abs() / (PI * (1 - PI) / n).sqrt()
    assert x["label"].dtype == torch.int64 and int(x["label"].max()) < 3 and float(error.max()) < 4.5
    for c in range(3):
        own = x["point"][x["label"][:, 0] == c].double()
        m = len(own)
        assert float((own.mean(0) - MEANS[c]).abs().max()) < 4.5 * sqrt(0.5 / m) + slack, (c, own.mean(0))
        assert float((torch.cov(own.T) - COVS[c]).abs().max()) < 4.5 * sqrt(2 / m) * 0.5 + slack, (c, torch.cov(own.T))


TOLD = [name for name, s in SAMPLERS.items() if not s.solver.variance]  # these denoisers tell no variance


@pytest.mark.parametrize("name", ["ancestral", "2m", "heun"])
def test_a_label_and_a_point_are_drawn_together(name: str) -> None:
    """Parts that move in one step do so independently: an error of order 1 / steps, here below 0.05."""
    joint_law(labelled(2000, sampler=name), slack=0.05)


def test_tokens_are_shown_at_their_time() -> None:
    """On the way a share t of labels is masked still; drawn at once they would have the right law in the end, too."""
    n, seen = 2000, []
    labelled(n, steps=8, watch=lambda step: seen.append((step.s, float((step.x["label"] == 3).double().mean()))))
    assert len(seen) == 8 and seen[-1] == (0.0, 0.0)
    assert all(abs(share - t) < 4.5 * sqrt(max(t * (1 - t), 1e-9) / n) for t, share in seen), seen


@pytest.mark.parametrize("corruption", [Uniform(3), Hybrid(4, p_uniform=0.3)])
def test_other_corruptions_of_the_label(corruption: Any) -> None:
    joint_law(labelled(2000, den=Labelled(corruption=corruption)), slack=0.05)


@pytest.mark.parametrize("first", ["label", "point"])
def test_one_after_the_other_is_exact(first: str) -> None:
    """A track a part, no error of steps in the label: p(c) then p(x | c), or p(x) then p(c | x)."""
    n = 40
    fall = torch.linspace(1, 0, n + 1).double()
    one, two = torch.cat([fall, fall.new_zeros(n)]), torch.cat([fall.new_ones(n), fall])
    order = {"label": 0, "point": 1} if first == "label" else {"label": 1, "point": 0}
    joint_law(labelled(3000, path=Path(torch.stack([one, two], 1), order), steps=None), slack=0.01)


def test_label_given_point_is_bayes_rule() -> None:
    point = torch.tensor([0.1, 0.3])
    x = labelled(4000, {"point": point}, steps=20)
    log, _ = Labelled().classes(point[None], 0.0)
    want = (PI.log() + log).softmax(1)[0]
    assert torch.equal(x["point"], point.expand(4000, 2))
    assert float(((shares(x["label"])[:3] - want).abs() / (want * (1 - want) / 4000).sqrt()).max()) < 4.5


@pytest.mark.parametrize("name", TOLD)
def test_point_given_label_is_the_plain_sampler_of_the_class(name: str) -> None:
    """The very numbers: a held label changes nothing but which denoiser it is; at time 1 it is the mixture."""
    for label in (2, None):
        values, parts = ({"label": label}, None) if label is not None else ({}, ("point",))
        x = labelled(4, values, parts=parts, sampler=name, steps=6)
        want = sample(Boxed(label), {"point": (4, 2)}, seeds=range(4), steps=6, sampler=name)["point"]
        torch.testing.assert_close(x["point"], want, rtol=1e-5, atol=1e-5)
        if label is not None:
            assert bool((x["label"] == label).all())


class Boxed(OfClass):
    """As one part of that name, whose noise has the same address."""

    def posterior(self, x: Any, t: Any, **cond: Any) -> Any:
        return {"point": super().posterior(x["point"], t["point"])}


def test_a_label_that_is_almost_known() -> None:
    """Absorbing: at time t it is known with probability 1 - t, else masked; the points are a mixture of the two."""
    n, t = 4000, 0.4
    x = labelled(n, {"label": Noisy(1, t)}, steps=20)
    seen = x["label"][:, 0] == 1
    assert abs(float(seen.double().mean()) - 0.6) < 4.5 * sqrt(0.24 / n) and bool((x["label"][~seen] == 3).all())
    assert float((x["point"][seen].double().mean(0) - MEANS[1]).abs().max()) < 4.5 * sqrt(0.5 / n) + 0.01
    assert float((x["point"][~seen].double().mean(0) - PI @ MEANS).abs().max()) < 4.5 * sqrt(1.5 / n * 2) + 0.01


def test_seeds_and_batches() -> None:
    whole = labelled(12, steps=6)
    parts = [
        sample(Labelled(), {"point": (6, 2), "label": (6, 1)}, steps=6, sampler="2m", seeds=s)
        for s in (range(6), range(6, 12))
    ]
    assert torch.equal(whole["label"], torch.cat([p["label"] for p in parts]))
    torch.testing.assert_close(whole["point"], torch.cat([p["point"] for p in parts]))


def test_what_tokens_in_a_walk_refuse() -> None:
    den, x = Labelled(), {"point": torch.zeros(2, 2), "label": torch.full((2, 1), 3)}
    with pytest.raises(ValueError, match="a path without rises"):
        list(walk(den, x, restart([1.0, 0.5, 0.0], 0.5, 1.0, 1), DDIM(), Seeded([1, 2])))
    with pytest.raises(TypeError, match="noise with uniform numbers"):
        list(walk(den, x, sync([1.0, 0.5, 0.0]), DDIM(), Fresh(torch.Generator())))
    with pytest.raises(ValueError, match=r"known 'label' from 3 to 3: integers in \[0, 3\)"):
        labelled(2, {"label": 3}, steps=2)
    assert len(list(walk(den, x, sync([0.9, 0.5, 0.0]), Heun(), Seeded([1, 2])))) == 3


# ---- aggregated chain (proof 1) -------------------------------------------------------------------------------------


def test_the_aggregated_chain() -> None:
    """Simulated moments of 50 steps with random a, b, h within 4 standard errors of 200,000 paths."""
    g, T, n = torch.Generator().manual_seed(0), 50, 200_000
    a, b = 0.95 + 0.05 * torch.rand(T, generator=g).double(), 0.2 * torch.rand(T, generator=g).double()
    h = torch.randn(T, 1, generator=g).double()
    made, z0 = chain(a, b, h), torch.tensor([0.7]).double()
    z = z0.expand(n, 1)
    for t in range(T):
        z = a[t] * z + b[t] * h[t] + (1 - a[t] ** 2).sqrt() * torch.randn(n, 1, generator=g).double()
        if t + 1 in (1, 25, 50):
            mean, var = made.marginal(z0, t + 1)
            assert abs(float(z.mean() - mean)) < 4 * sqrt(float(var) / n)
            assert abs(float(z.var() / var) - 1) < 4 * sqrt(2 / n)


def test_its_posterior_is_that_of_gaussian_conditioning() -> None:
    g, T = torch.Generator().manual_seed(1), 50
    a, b, h = (
        0.9 + 0.1 * torch.rand(T, generator=g).double(),
        torch.rand(T, generator=g).double(),
        torch.randn(T, 3).double(),
    )
    made, z0, zt = chain(a, b, h), torch.randn(3, generator=g).double(), torch.randn(3, generator=g).double()
    for t in (1, 2, 17, 50):
        m, v = made.marginal(z0, t - 1)  # z_{t-1}, of which z_t = a z_{t-1} + b h + noise is a measurement
        gain = v * a[t - 1] / (a[t - 1] ** 2 * v + 1 - a[t - 1] ** 2)
        want = m + gain * (zt - a[t - 1] * m - b[t - 1] * h[t - 1])
        mean, var = made.bridge(zt, z0, t)
        assert float((mean - want).abs().max()) < 1e-10 and abs(float(var - (1 - gain * a[t - 1]) * v)) < 1e-10


def test_of_one_part_and_no_shift_it_is_ddpm() -> None:
    """Ho et al. 2020, equations 6 and 7, in their letters: alpha = a^2."""
    a = torch.linspace(0.999, 0.95, 20).double()
    made, z0, zt = (
        chain(a, torch.zeros(20).double(), torch.zeros(20, 2).double()),
        torch.ones(2).double(),
        torch.tensor([0.3, -2.0]).double(),
    )
    alpha = a**2
    bar = alpha.cumprod(0)
    for t in range(2, 21):
        beta, before = 1 - alpha[t - 1], bar[t - 2]
        want = before.sqrt() * beta / (1 - bar[t - 1]) * z0 + alpha[t - 1].sqrt() * (1 - before) / (1 - bar[t - 1]) * zt
        mean, var = made.bridge(zt, z0, t)
        assert float((mean - want).abs().max()) < 1e-12
        assert abs(float(var - (1 - before) / (1 - bar[t - 1]) * beta)) < 1e-12
