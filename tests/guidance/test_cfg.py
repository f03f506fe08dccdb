"""Classifier-free guidance: the formula, what it pays for, and the laws it is known to draw (guidance, proof 1)."""

from math import log
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import Simple, draw
from oneprior import paths
from oneprior.denoiser import Denoiser, Facts
from oneprior.exact import Mixture
from oneprior.guidance import CFG, sigma, time
from oneprior.noise import Seeded
from oneprior.posterior import Posterior
from oneprior.sampling import DDIM, Heun, sample, walk
from oneprior.schedules import EDM, VP, RectifiedFlow
from oneprior.times import align


def conditional(x: Tensor, t: Any, label: Tensor | None = None, **_: Any) -> Tensor:
    return torch.tanh(x + (0.0 if label is None else align(label.to(x), x)))


def plain(schedule: Any = None, axes: int = 0) -> Simple:
    return Simple(conditional, schedule or VP(), axes, {"label": 0})


LABEL = torch.tensor([1.0, 2.0, 3.0])


def halves(den: Simple, x: Tensor, t: Any) -> tuple[Tensor, Tensor]:
    return den(x, t, label=LABEL).mean, den(x, t, label=torch.zeros(3)).mean


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0, 7.5, torch.tensor([0.0, 1.0, 4.0])], ids=str)
@pytest.mark.parametrize("grad", [False, True])
def test_the_formula_in_one_call_of_twice_the_batch(scale: Any, grad: bool) -> None:
    den, x = plain(), draw(3, 2, 4)
    D, U = halves(den, x, 0.4)
    den.calls.clear()
    with torch.set_grad_enabled(grad):
        post = CFG(den, scale)(x, 0.4, label=LABEL)
    w = scale.double()[:, None, None] if isinstance(scale, Tensor) else scale
    torch.testing.assert_close(post.mean, U + w * (D - U), rtol=1e-12, atol=1e-12)
    assert den.calls == [((6, 2, 4), 0.4)]
    a, _, s = VP().at(0.4)
    torch.testing.assert_close(post.eps, (x - a * post.mean) / s)


def test_times_a_sample_and_an_element() -> None:
    den, x = plain(axes=2), draw(3, 2, 4)
    for t in (torch.tensor([0.1, 0.5, 0.9]), torch.rand(3, 2) * 0.8 + 0.1, torch.tensor([[0.2, 0.7]])):
        D, U = halves(den, x, t)
        torch.testing.assert_close(CFG(den, 3.0)(x, t, label=LABEL).mean, U + 3 * (D - U))


def test_scale_one_is_plain_and_pays_one_call() -> None:
    den, x = plain(), draw(3, 4)
    want = den(x, 0.3, label=LABEL).mean
    den.calls.clear()
    assert torch.equal(CFG(den, 1.0)(x, 0.3, label=LABEL).mean, want) and den.calls == [((3, 4), 0.3)]
    torch.testing.assert_close(CFG(den, torch.ones(3))(x, 0.3, label=LABEL).mean, want)


@pytest.mark.parametrize("interval", [sigma(0.3, 3.0), time(0.25, 0.75)], ids=["sigma", "time"])
def test_an_interval_pays_one_call_outside_and_switches_back_on(interval: Any) -> None:
    """Some codes overwrite the scale at the first step outside and never guide again."""
    den = plain(RectifiedFlow())
    guided = CFG(den, 4.0, interval=interval)
    inside = (lambda t: 0.3 < t / (1 - t) <= 3.0) if isinstance(interval, sigma) else (lambda t: 0.25 < t <= 0.75)
    x = draw(3, 4)
    for t in (0.9, 0.5, 0.1, 0.75, 0.2, 0.3, 0.25):  # in and out, and in again
        D, U = halves(den, x, t)
        den.calls.clear()
        got = guided(x, t, label=LABEL).mean
        torch.testing.assert_close(got, U + 4 * (D - U) if inside(t) else D)
        assert den.calls[0][0][0] == (6 if inside(t) else 3)
    den.calls.clear()
    path = paths.restart([0.9, 0.5, 0.2, 0.0], low=0.2, high=0.5, repeats=1)
    sample(guided, (3, 4), path=path, sampler="ddim", seeds=range(3), label=LABEL)
    assert [shape[0] for shape, _ in den.calls] == [3, 6, 6, 3]
    assert guided.interval is interval and guided.scale == 4.0


def test_an_interval_of_times_an_element() -> None:
    den, x, t = plain(RectifiedFlow(), 1), draw(3, 2, 4), torch.tensor([[0.1, 0.5], [0.6, 0.9], [0.05, 0.95]])
    D, U = halves(den, x, t)
    den.calls.clear()
    got = CFG(den, 4.0, interval=time(0.25, 0.75))(x, t, label=LABEL).mean
    on = ((t > 0.25) & (t <= 0.75))[:, :, None]
    torch.testing.assert_close(got, torch.where(on, U + 4 * (D - U), D))
    assert den.calls[0][0][0] == 6
    den.calls.clear()
    CFG(den, 4.0, interval=time(0.25, 0.75))(x[2:], t[2:], label=LABEL[2:])
    assert den.calls[0][0][0] == 1  # nothing of this batch is inside


@pytest.mark.parametrize("phi", [0.0, 0.7, 1.0])
def test_rescale(phi: float) -> None:
    """G' = G std(D_c)/std(G) a sample, D = phi G' + (1 - phi) G (Lin et al. 2023)."""
    den, x = plain(), draw(3, 2, 4)
    D, U = halves(den, x, 0.4)
    G = U + 5 * (D - U)
    ratio = D.flatten(1).std(1) / G.flatten(1).std(1)
    want = phi * G * ratio[:, None, None] + (1 - phi) * G
    got = CFG(den, 5.0, rescale=phi)(x, 0.4, label=LABEL).mean
    torch.testing.assert_close(got, want)
    if phi == 1.0:
        torch.testing.assert_close(got.flatten(1).std(1), D.flatten(1).std(1))


def test_negative_conditions_steer_away() -> None:
    den, x = plain(), draw(3, 4)
    D, N = den(x, 0.4, label=LABEL).mean, den(x, 0.4, label=torch.full((3,), 5.0)).mean
    for negative in ({"label": 5}, {"label": torch.full((3,), 5.0)}):
        torch.testing.assert_close(CFG(den, 3.0, negative=negative)(x, 0.4, label=LABEL).mean, N + 3 * (D - N))


def test_other_conditions_are_shared_by_both_halves() -> None:
    seen: list[dict[str, Any]] = []

    def f(x: Tensor, t: Any, **cond: Any) -> Tensor:
        seen.append(cond)
        return x

    den = Simple(f, VP(), 0, {"label": 9, "tokens": None})
    x, image, tokens = draw(3, 4), draw(3, 7), draw(3, 2, 5)
    label = torch.tensor([1, 2, 3])
    CFG(den, 3.0)(x, 0.4, label=label, image=image, tokens=tokens, strength=0.5, table=draw(8, 8))
    (cond,) = seen
    assert cond["label"].tolist() == [1, 2, 3, 9, 9, 9] and cond["label"].dtype == torch.int64
    assert torch.equal(cond["image"], torch.cat([image, image])) and cond["strength"] == 0.5
    assert torch.equal(cond["tokens"], torch.cat([tokens, torch.zeros_like(tokens)]))
    assert cond["table"].shape == (8, 8)


def test_guidance_on_an_unconditional_prior_is_refused() -> None:
    with pytest.raises(ValueError, match=r"conditional prior.*facts\.null is empty"):
        CFG(Simple(conditional, VP()), 2.0)
    den = plain()
    for cond in ({}, {"label": None}, {"image": draw(3, 4)}):
        with pytest.raises(ValueError, match=r"one of the conditions \['label'\]; none was given"):
            CFG(den, 2.0)(draw(3, 4), 0.5, **cond)


def test_a_guided_denoiser_is_no_density() -> None:
    guided = CFG(plain(), 2.0)
    assert not guided.facts.density and guided.inner.facts.density and guided.schedule == VP()


def test_wraps_and_is_wrapped() -> None:
    """Guidance of guidance: the outer one doubles the doubled batch."""
    den, x = plain(), draw(3, 4)
    D, U = halves(den, x, 0.4)
    # inside, the null half is guided away from the null: it stays what it is
    torch.testing.assert_close(CFG(CFG(den, 2.0), 3.0)(x, 0.4, label=LABEL).mean, U + 3 * 2 * (D - U))


class Stored(Denoiser):
    """Returns tensors of its own, or its input: nothing that a caller may write to."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.schedule, self.facts, self.what = VP(), Facts(null={"label": 0}), what
        self.mean = torch.tensor(2.0)

    def posterior(self, x: Tensor, t: Any, **cond: Any) -> Posterior:
        return Posterior(x if self.what == "x" else self.mean.expand_as(x), x, self.schedule, t)


@pytest.mark.parametrize("what", ["x", "constant"])
@pytest.mark.parametrize("sampler", ["ddim", "2m", "heun"])
def test_means_that_are_not_ours_to_overwrite(what: str, sampler: str) -> None:
    den, start = Stored(what), draw(3, 4, dtype=torch.float32)
    kwargs: Any = {"steps": 4, "sampler": sampler, "seeds": range(3), "start": start}
    got = sample(CFG(den, 3.0), (3, 4), label=LABEL, **kwargs)
    torch.testing.assert_close(got, sample(den, (3, 4), **kwargs))  # both halves agree: guidance does nothing
    assert den.mean == 2.0 and torch.equal(start, draw(3, 4, dtype=torch.float32))


@pytest.mark.parametrize("sampler", ["ddim", "2m", "heun", "ancestral"])
def test_conditions_are_doubled_once_a_trajectory_and_never_mixed_up(sampler: str) -> None:
    """What `begin` keeps belongs to one run: another label in the next run is another answer."""
    den = plain()
    guided = CFG(den, 3.0)
    kwargs: Any = {"steps": 5, "sampler": sampler, "seeds": range(3)}
    first = sample(guided, (3, 4), label=LABEL, **kwargs)
    second = sample(guided, (3, 4), label=LABEL + 1, **kwargs)
    assert torch.equal(first, sample(CFG(den, 3.0), (3, 4), label=LABEL, **kwargs))
    assert torch.equal(second, sample(CFG(den, 3.0), (3, 4), label=LABEL + 1, **kwargs))
    assert not torch.equal(first, second)
    changed = LABEL.clone()
    a = sample(guided, (3, 4), label=changed, **kwargs)
    changed += 1  # in place, between runs
    assert torch.equal(a, first) and torch.equal(sample(guided, (3, 4), label=changed, **kwargs), second)


def test_gradients_pass_through_guidance() -> None:
    x = draw(3, 4).requires_grad_()
    mean = CFG(plain(), 3.0)(x, 0.4, label=LABEL).mean
    (g,) = torch.autograd.grad(mean.sum(), x)
    y = x.detach().requires_grad_()
    D, U = halves(plain(), y, 0.4)
    (want,) = torch.autograd.grad((U + 3 * (D - U)).sum(), y)
    torch.testing.assert_close(g, want)


def test_variance_is_the_conditional_one() -> None:
    law = Mixture([0.5, 0.5], [[-1.0], [1.0]], [0.1, 0.3], labels=[0, 1])
    den, x, label = law.denoiser(VP()), draw(3, 1), torch.tensor([0, 1, 1])
    post, want = CFG(den, 3.0)(x, 0.4, label=label), den(x, 0.4, label=label)
    assert post.var is not None and want.var is not None
    torch.testing.assert_close(post.var, want.var)
    U = den(x, 0.4, label=torch.full((3,), law.classes)).mean
    torch.testing.assert_close(post.mean, U + 3 * (want.mean - U))


# closed forms: conditional N(mu, a), unconditional N(0, b)


class TwoNormals(Denoiser):
    def __init__(self, a: float, b: float, mu: float = 0.0) -> None:
        super().__init__()
        self.schedule, self.facts = EDM(1e4), Facts(null={"label": 0})
        self.a, self.b, self.mu = a, b, mu

    def posterior(self, x: Tensor, t: Any, *, label: Tensor, **_: Any) -> Posterior:
        v = self.schedule.at(t)[2] ** 2
        c, u = self.mu + self.a / (self.a + v) * (x - self.mu), self.b / (self.b + v) * x
        mean = torch.where(label[:, None] == 1, c, u)
        return Posterior(mean, x, self.schedule, t)


def transported(den: Denoiser, solver: Any, n: int) -> tuple[float, float]:
    """Mean and standard deviation of the end: the ODE is affine in x, so two points tell everything."""
    high, low = 1e3, 1e-3
    times = [high / 1e4 * (low / high) ** (i / n) for i in range(n + 1)]
    x = high * torch.tensor([[0.0], [1.0]]).double()
    *_, last = walk(den, x, paths.sync(times), solver, Seeded([0, 1]), label=torch.ones(2))
    return float(last.x[0]), float(last.x[1] - last.x[0])


@pytest.mark.parametrize(
    ("interval", "variance"), [(None, 0.015625), (sigma(0.3, 3.0), 0.028429)], ids=["everywhere", "interval"]
)
def test_what_guidance_draws(interval: Any, variance: float) -> None:
    """From infinite noise the ODE's variance is a^w b^(1-w); inside an interval (lo, hi] only its share of it."""
    a, b, w = 0.25, 1.0, 3.0
    assert a**w * b ** (1 - w) == 0.015625
    _, spread = transported(CFG(TwoNormals(a, b), w, interval=interval), Heun(), 4000)
    assert spread**2 == pytest.approx(variance, rel=1e-3)
    if interval is not None:
        lo, hi = interval
        exact = a * ((a + lo**2) / (a + hi**2)) ** (w - 1) * ((b + lo**2) / (b + hi**2)) ** (1 - w)
        assert exact == pytest.approx(variance, rel=2e-5)
    _, unguided = transported(TwoNormals(a, b), Heun(), 300)
    assert unguided**2 == pytest.approx(a, rel=1e-3)


def test_guidance_is_exact_where_only_the_mean_differs() -> None:
    """Equal variances, means 0 and mu: CFG draws N(w mu, a)."""
    mean, spread = transported(CFG(TwoNormals(0.25, 0.25, 0.8), 3.0), Heun(), 300)
    assert mean == pytest.approx(2.4, rel=1e-3) and spread**2 == pytest.approx(0.25, rel=1e-3)


def test_a_bad_model_as_the_negative_sharpens_to_the_data() -> None:
    """Autoguidance: variances 1.21 (good) and 1.4641 (bad), data 1: w = 2 gives exactly 1 (1.21^2 / 1.4641)."""
    _, spread = transported(CFG(TwoNormals(1.21, 1.4641), 2.0), Heun(), 300)
    assert spread**2 == pytest.approx(1.0, rel=1e-3)
    _, unguided = transported(TwoNormals(1.21, 1.4641), Heun(), 300)
    assert unguided**2 == pytest.approx(1.21, rel=1e-3)


def test_the_stochastic_sampler_draws_another_variance() -> None:
    """SDE-CFG: the integral of (a/(a+u))^(2w) (b/(b+u))^(2-2w) over u is .0666, neither the ODE's nor the tilted .1."""
    a, b, w, n = 0.25, 1.0, 3.0, 1000
    u = torch.logspace(-6, 6, 400_001, dtype=torch.float64)
    law = torch.trapezoid((a / (a + u)) ** (2 * w) * (b / (b + u)) ** (2 - 2 * w), u)
    assert float(law) == pytest.approx(0.0666, abs=5e-5)
    # the chain is affine in x and its noises are independent: propagate the variance through the rows
    den = CFG(TwoNormals(a, b), w)
    times = [(1e-3 / 80) ** (i / n) * 80 / 1e4 for i in range(n + 1)]
    V = 80.0**2
    points = torch.tensor([[0.0], [1.0]]).double()
    for stage in DDIM(1.0).plan(den.schedule, paths.sync(times)):
        (row,) = stage.rows
        D = den(points, stage.t, label=torch.ones(2)).mean
        V = float(row.keep + row.w[0] * (D[1] - D[0])) ** 2 * V + row.std**2
    assert pytest.approx(float(law), rel=0.02) == V
    assert log(V / 0.1) < -0.3 and log(V / 0.015625) > 1
