"""The one table of conversions, to 1e-9 in float64, and the views of a posterior against an exact density."""

from math import sqrt

import pytest
import torch

from helpers import ANCHORED, PRESERVING, SCHEDULES, Normal, ar1, draw
from oneprior.posterior import PREDICTIONS, EDMPrediction, Posterior, Prediction, prediction
from oneprior.schedules import EDM, VE, VP, Cosine, LinearBetas, RectifiedFlow
from oneprior.times import align

KINDS: dict[str, Prediction] = {**PREDICTIONS, "edm, unit data": EDMPrediction(1.0)}
TIMES = torch.tensor([1e-4, 1e-3, 0.0237, 0.4373, 0.9117, 0.999, 1 - 1e-4], dtype=torch.float64)


def _no_signal(schedule: str, kind: str) -> bool:
    """With zero terminal SNR eps and score carry nothing of x_0 near the end: not a conversion but a loss."""
    return "zero snr" in schedule and kind in ("eps", "score")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_target_to_mean_and_back(name: str, kind: str) -> None:
    schedule, n = SCHEDULES[name], len(TIMES)
    keep = slice(0, -2) if _no_signal(name, kind) else slice(None)
    t, x0, eps = TIMES[keep], draw(n, 6)[keep], draw(n, 6, seed=1)[keep]
    a, s = (align(c, x0) for c in schedule.at(t)[::2])
    x = a * x0 + s * eps
    row = KINDS[kind].row(schedule, t)
    target = align(row.u, x0) * x0 + align(row.w, x0) * eps
    mean = align(row.p, x0) * x + align(row.q, x0) * target
    assert (mean - x0).abs().max() < 1e-9
    again = align(row.u, x0) * mean + align(row.w, x0) * Posterior(mean, x, schedule, t).eps
    scale = target.abs().amax(1, keepdim=True).clamp(min=1)
    assert ((again - target).abs() / scale).max() < 1e-9
    # and with a float, one time after another
    for i, level in enumerate(t.tolist()):
        one = KINDS[kind].row(schedule, level)
        assert (one.p * x[i] + one.q * target[i] - x0[i]).abs().max() < 1e-9


@pytest.mark.parametrize("kind", [*PREDICTIONS])
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_view_agrees_with_its_target(name: str, kind: str) -> None:
    """E[target | x_t] read off the posterior: eps, score and velocity are the same linear maps."""
    schedule, x = SCHEDULES[name], draw(2, 6)
    for t in (0.03, 0.47, 0.93):
        post = Posterior(0.4 * x + 0.1, x, schedule, t)
        row = KINDS[kind].row(schedule, t)
        seen = {"eps": post.eps, "score": post.score, "velocity": post.velocity, "x0": post.mean}
        if kind in seen:
            want = row.u * post.mean + row.w * post.eps
            assert (seen[kind] - want).abs().max() < 1e-10 * want.abs().max().clamp(min=1)


@pytest.mark.parametrize("name", PRESERVING)
def test_edm_at_unit_data_is_minus_v(name: str) -> None:
    schedule = SCHEDULES[name]
    for t in TIMES.tolist():
        edm, v = EDMPrediction(1.0).row(schedule, t), PREDICTIONS["v"].row(schedule, t)
        assert (edm.u, edm.w, edm.p, edm.q) == pytest.approx((-v.u, -v.w, v.p, -v.q), abs=1e-12)
        assert edm.c == pytest.approx(1.0, abs=1e-12)


def test_published_rows() -> None:
    """EDM at alpha = 1 (Karras et al. 2022, table 1), v and eps under VP, velocity of rectified flow."""
    t, sd = 0.01, 0.5
    sigma = EDM().at(t)[2]
    row = EDMPrediction(sd).row(EDM(), t)
    assert row.p == pytest.approx(sd**2 / (sigma**2 + sd**2))  # c_skip
    assert row.q == pytest.approx(sigma * sd / sqrt(sigma**2 + sd**2))  # c_out
    assert row.c == pytest.approx(1 / sqrt(sigma**2 + sd**2))  # c_in
    a, _, s = VP().at(0.3)
    v, eps, score = (PREDICTIONS[k].row(VP(), 0.3) for k in ("v", "eps", "score"))
    assert (v.p, v.q, v.u, v.w) == pytest.approx((a, -s, -s, a))
    assert (eps.p, eps.q, score.p, score.q) == pytest.approx((1 / a, -s / a, 1 / a, s * s / a))
    flow = PREDICTIONS["velocity"].row(RectifiedFlow(), 0.3)
    assert (flow.p, flow.q, flow.u, flow.w) == pytest.approx((1.0, -0.3, -1.0, 1.0))
    assert tuple(PREDICTIONS["x0"].row(VP(), 0.3)) == (0.0, 1.0, 1.0, 0.0, 1.0)


@pytest.mark.parametrize("sd", [0.25, 1.0, 2.0])
@pytest.mark.parametrize("name", ["vp", "edm", "rf"])
def test_edm_prediction_has_unit_input_and_target(name: str, sd: float) -> None:
    schedule = SCHEDULES[name]
    for t in (0.02, 0.4, 0.9):
        a, _, s = schedule.at(t)
        row = EDMPrediction(sd).row(schedule, t)
        assert row.c**2 * (a * a * sd**2 + s * s) == pytest.approx(1.0)
        assert row.u**2 * sd**2 + row.w**2 == pytest.approx(1.0)


@pytest.mark.parametrize("t", [0.05, 0.4, 0.9, torch.tensor([[0.1, 0.5, 0.9, 0.3]]).double()], ids=str)
@pytest.mark.parametrize("name", ["vp", "subvp", "ve", "rf", "linear betas"])
def test_score_is_the_gradient_of_the_log_density(name: str, t: float) -> None:
    """Against autograd of an exact log-density, with frames at times of their own as well."""
    schedule, K, m = SCHEDULES[name], ar1(4), draw(4, seed=3)
    x = draw(5, 4).requires_grad_()
    a, s = (torch.as_tensor(v, dtype=torch.float64).expand(1, 4)[0] for v in schedule.at(t)[::2])
    law = torch.distributions.MultivariateNormal(a * m, a[:, None] * K * a + torch.diag(s * s))
    (score,) = torch.autograd.grad(law.log_prob(x).sum(), x)
    post = Normal(m, K, schedule)(x.detach(), t)
    torch.testing.assert_close(post.score, score, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(post.eps, -align(schedule.at(t)[2], x) * score, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["vp", "rf", "edm"])
def test_variance_is_tweedies_second_order(name: str) -> None:
    """Cov[x_0 | x_t] = (sigma^2 / alpha) dD/dx, from autograd, to 1e-8."""
    schedule, den = SCHEDULES[name], Normal(draw(4), ar1(4), SCHEDULES[name])
    x = draw(1, 4, seed=5)
    for t in (0.01, 0.3, 0.9):
        a, _, s = schedule.at(t)
        J = torch.autograd.functional.jacobian(lambda x, t=t: den(x, t).mean, x)
        assert isinstance(J, torch.Tensor)
        torch.testing.assert_close(J[0, :, 0].diagonal() * s * s / a, den(x, t).var[0], rtol=1e-8, atol=1e-8)


def test_mix_and_replace() -> None:
    x = draw(2, 3)
    p, q = (Posterior(k * x, x, VP(), 0.4, var=x.square()) for k in (0.7, 0.2))
    torch.testing.assert_close(p.mix(q, 3.0).mean, 0.2 * x + 3 * 0.5 * x)
    torch.testing.assert_close(p.mix(q, 3.0).eps, q.eps + 3 * (p.eps - q.eps))  # the same in every view
    torch.testing.assert_close(p.mix(q, 3.0).score, q.score + 3 * (p.score - q.score))
    assert p.mix(q, 3.0).var is p.var and torch.equal(p.mix(q, 1.0).mean, p.mean)
    assert p.replace(q.mean).var is None and p.replace(q.mean, x).var is x
    scale = torch.tensor([[1.0], [2.0]]).double()
    torch.testing.assert_close(p.mix(q, scale).mean, 0.2 * x + scale * 0.5 * x)


def test_names_of_predictions() -> None:
    assert prediction("eps") is PREDICTIONS["eps"] and prediction(EDMPrediction(0.3)) == EDMPrediction(0.3)
    with pytest.raises(ValueError, match=r"'noise' is not known.*'eps'.*'velocity'"):
        prediction("noise")
    with pytest.raises(TypeError, match="declares"):
        Prediction().row(VP(), 0.5)


@pytest.mark.parametrize("kind", ["eps", "score"])
@pytest.mark.parametrize("schedule", [Cosine(), RectifiedFlow(), LinearBetas(zero_snr=True)])
def test_eps_without_signal_says_so(kind: str, schedule: Cosine) -> None:
    with pytest.raises(ValueError, match=rf"prediction of {kind} says nothing.*t = 1.*predict v.*t_range"):
        PREDICTIONS[kind].row(schedule, 1.0)


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("name", {**SCHEDULES, **ANCHORED})
def test_at_time_zero_the_mean_is_x(name: str, kind: str) -> None:
    """Held elements are asked for at t = 0: whatever the network says there, D = x (or its own x0), and finite."""
    schedule, x, F = {**SCHEDULES, **ANCHORED}[name], draw(3), draw(3, seed=1)
    for t in (0.0, torch.zeros(3, dtype=torch.float64)):
        row = PREDICTIONS[kind].row(schedule, t)
        mean = row.p * x + row.q * F
        torch.testing.assert_close(mean, F if kind == "x0" else x, rtol=0, atol=1e-4)


def test_ve_and_edm_are_the_same_curve_of_noise() -> None:
    sigma = 3.7
    ve, edm = VE(), EDM()
    assert ve.at(ve.time(-torch.tensor(sigma).log().item()))[2] == pytest.approx(sigma, rel=1e-6)
    assert edm.at(sigma / 80)[2] == pytest.approx(sigma)
