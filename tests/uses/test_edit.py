"""Codes: exact reconstruction, the energy identity, the translation theorem, digits with a known answer."""

from dataclasses import replace
from math import log
from typing import Any

import pytest
import torch
from torch import Tensor

from oneprior import nets
from oneprior.denoiser import Facts, NetworkDenoiser
from oneprior.exact import Gaussian, Mixture, empirical
from oneprior.nets.config import UNetConfig
from oneprior.noise import Seeded
from oneprior.schedules import VP, Cosine, RectifiedFlow
from oneprior.uses.edit import decode, encode, translate


def mixture(shift: float | Tensor = 0.0) -> Mixture:
    g = torch.Generator().manual_seed(5)
    return Mixture([0.1, 0.2, 0.3, 0.2, 0.2], torch.randn(5, 4, generator=g, dtype=torch.float64) + shift, 0.1)


def rms(x: Tensor) -> float:
    return x.square().mean().sqrt().item()


@pytest.mark.parametrize("schedule", [Cosine(), VP(), RectifiedFlow()])
@pytest.mark.parametrize(("eta", "steps"), [(0.1, 20), (0.1, 100), (1.0, 20), (1.0, 100)])
def test_reconstruction_is_exact(schedule: Any, eta: float, steps: int) -> None:
    """Card: error < 1e-10 with the residual; without it the error is exactly |x_0 - D(x_N)|."""
    law = mixture()
    den, x = law.denoiser(schedule), law.sample(50, seeds=range(50))
    code = encode(x, den, steps=steps, eta=eta, seeds=range(50))
    assert len(code.noises) == steps - 1
    assert (decode(code, den) - x).abs().max() < 1e-10
    gap = x - decode(code, den, residual=False)
    assert (gap - code.residual).abs().max() < 1e-10 and rms(gap) > 1e-6


@pytest.mark.parametrize("start", [None, 0.6])
def test_reconstruction_with_an_untrained_network(start: float | None) -> None:
    torch_generator = torch.Generator().manual_seed(0)
    net = nets.build(UNetConfig((1, 8, 8), classes=10, channels=(8, 16), attention=()))
    for p in net.parameters():
        p.data = 0.3 * torch.randn(p.shape, generator=torch_generator)
    den = NetworkDenoiser(net.double(), Cosine(), "v", facts=Facts(null={"label": 10}))
    den.time = lambda schedule, t: t.double()
    x = torch.rand(6, 1, 8, 8, generator=torch_generator).double() * 2 - 1
    label = torch.arange(6)
    code = encode(x, den, steps=20, eta=0.3, start=start, seeds=range(6), label=label)
    assert (decode(code, den, label=label) - x).abs().max() < 1e-8
    assert rms(decode(code, den, label=(label + 1) % 10) - x) > 1e-3


def test_energy_of_a_code_is_twice_the_bound() -> None:
    """N(0, 1/2), eta = 1: sum of E|z|^2/dim - 1 = sum of (SNR_s - SNR_t) 0.5 / (1 + 0.5 SNR_t), within 2 %."""
    law, sums = Gaussian(torch.zeros(1000), 0.5), {}
    den, x = law.denoiser(Cosine()), law.sample(20, seeds=range(20))  # 20,000 numbers
    for steps in (200, 800):
        code = encode(x, den, steps=steps, eta=1.0, seeds=range(20))
        snr = (2 * den.schedule.lam(code.path.matrix[:-1, 0])).exp()
        expected = ((snr[1:] - snr[:-1]) * 0.5 / (1 + 0.5 * snr[:-1])).sum().item()
        # |w|^2 - 1 of the known noise w has mean 0 and most of the variance: it is taken off
        drawn = torch.stack([Seeded(range(20))(i, x).square().mean() - 1 for i, _ in code.noises])
        sums[steps] = code.energy.mean().item() / 1000 - drawn.sum().item()
        assert sums[steps] == pytest.approx(expected, rel=0.02)
        sums[steps] -= log(1 + 0.5 * snr[-1].item())  # its limit on a fine grid, from above
    assert 0 < sums[800] < sums[200] + 0.1


@pytest.mark.parametrize("eta", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("steps", [20, 100])
def test_a_translated_model_translates(eta: float, steps: int) -> None:
    """B = A + m: y = x_0 + m, to rounding once the start is moved by a_0 m; on VP, where a_0 > 0."""
    m = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    law = mixture()
    a, b, x = law.denoiser(VP()), mixture(m).denoiser(VP()), law.sample(50, seeds=range(50))
    code = encode(x, a, steps=steps, eta=eta, seeds=range(50))
    begin = VP().at(code.path.matrix[0, 0].item())[0]
    moved = replace(code, start=code.start + begin * m)
    assert (decode(moved, b) - x - m).abs().max() < 1e-9


def test_cycle_against_its_neighbours() -> None:
    """A plain start at t = 0.999 errs by < 5e-3 at eta = 1, at least 20 times less than DDIB at 100 steps."""
    m = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    law = mixture()
    a, b, x = law.denoiser(VP()), mixture(m).denoiser(VP()), law.sample(100, seeds=range(100))

    def gap(**settings: Any) -> Tensor:
        return translate(x, a, b, seeds=range(100), **settings) - x - m

    cycle = gap(method="cycle", eta=1.0, steps=100, start=0.999)
    assert cycle.abs().max() < 5e-3
    ddib = [rms(gap(method="ddib", steps=n, start=0.999)) for n in (20, 100)]
    assert ddib[1] < 0.6 * ddib[0]  # its error is the solver's
    assert rms(cycle) < ddib[1] / 20
    assert rms(gap(method="sdedit", eta=1.0, steps=100, start=0.5)) > 1.0
    code = encode(x, a, steps=100, eta=1.0, start=0.999, seeds=range(100))
    assert (decode(code, b) - x - m - cycle).abs().max() < 1e-10  # in one pass or by way of a code: the same
    assert rms(translate(x, a, steps=100, eta=0.0) - x) < 0.1  # the ODE of one model and back
    ode = encode(x, a, steps=100, eta=0.0, start=0.999)
    assert not ode.noises and bool((ode.energy == 0).all())
    assert torch.allclose(decode(ode, b), translate(x, a, b, method="ddib", steps=100, start=0.999))


def test_digits_with_a_known_answer() -> None:
    """B = digits + stripes, on disjoint halves: cycle comes nearer to x + stripes than SDEdit from any start."""
    from sklearn.datasets import load_digits

    pixels, y = load_digits(return_X_y=True)
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    x, y = torch.tensor(pixels / 8 - 1)[order], torch.tensor(y)[order]
    stripes = torch.zeros(8, 8, dtype=torch.float64)
    stripes[::2] = 0.8
    stripes = stripes.reshape(-1)
    first, second = x[:800], x[800:1600] + stripes
    a, b = (empirical(v, 0.05**0.5).denoiser(VP()) for v in (first, second))
    source, label = x[1600:1700], y[1600:1700]

    def judge(**settings: Any) -> tuple[float, float]:
        out = translate(source, a, b, steps=40, seeds=range(100), **settings)
        near = torch.cdist(out, second).argmin(1)
        return rms(out - source - stripes), (y[800:1600][near] == label).double().mean().item()

    distance, agreement = judge(method="cycle", eta=0.1)
    best = min(rms(source - source - stripes), *(judge(method="sdedit", eta=1.0, start=s)[0] for s in (0.3, 0.5, 0.7)))
    assert distance < 0.9 * best
    assert agreement > 0.65


def test_results_do_not_depend_on_the_batch() -> None:
    law = mixture()
    den, x, other = law.denoiser(Cosine()), law.sample(12, seeds=range(12)), mixture(1.0).denoiser(Cosine())
    for method in ("cycle", "sdedit"):
        full = translate(x, den, other, method=method, steps=10, start=0.7, seeds=range(12))
        part = translate(x[5:], den, other, method=method, steps=10, start=0.7, seeds=range(5, 12))
        assert torch.allclose(full[5:], part, atol=1e-12)


def test_what_is_refused() -> None:
    law = mixture()
    den, x = law.denoiser(Cosine()), law.sample(2, seeds=range(2))
    with pytest.raises(ValueError, match="with_schedule"):
        decode(encode(x, den, steps=4), law.denoiser(VP()))
    with pytest.raises(ValueError, match=r"eta = 1.5: 0 .* to 1"):
        encode(x, den, eta=1.5)
    with pytest.raises(ValueError, match=r"start = 0\.0"):
        encode(x, den, start=0.0)
    with pytest.raises(ValueError, match=r"\['cycle', 'ddib', 'sdedit'\] was expected"):
        translate(x, den, method="gan")
