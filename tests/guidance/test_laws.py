"""What guidance draws, against laws known in closed form and figures measured elsewhere (guidance, proofs 1 and 3).

The laws of the ODE, of an interval and of autoguidance are in test_cfg.py and test_autoguidance.py.
"""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import Simple, draw
from oneprior import paths
from oneprior.exact import Mixture
from oneprior.guidance import CFG
from oneprior.noise import Fresh, Seeded
from oneprior.sampling import DDIM, Heun, walk
from oneprior.schedules import EDM


def log_times(high: float, low: float, n: int, scale: float) -> paths.Path:
    """n equal steps of log sigma under EDM(scale)."""
    return paths.sync([high / scale * (low / high) ** (i / n) for i in range(n + 1)])


def test_the_variance_of_the_guided_sde() -> None:
    """N(0, 1/4) against N(0, 1), w = 3: .0666 within 5 % (five standard errors of 20,000 samples), where the ODE draws
    .0156 and the tilted law .1."""
    schedule = EDM(80.0)

    def f(x: Tensor, t: Any, label: Tensor) -> Tensor:
        return x / (1 + schedule.at(t)[2] ** 2 * torch.where(label == 1, 4.0, 1.0)[:, None])

    guided, n = CFG(Simple(f, schedule, 0, {"label": 0}), 3.0), 20_000
    noise = Fresh(torch.Generator().manual_seed(0))
    x = 80 * draw(n, 1, dtype=torch.float32)
    for out in walk(guided, x, log_times(80, 1e-3, 1000, 80.0), DDIM(1.0), noise, reuse=True, label=torch.ones(n)):
        x = out.x
    assert float(x.double().var()) == pytest.approx(0.0666, rel=0.05)
    assert abs(float(x.double().mean())) < 4 * (0.0666 / n) ** 0.5


def three(radius: float = 1.2) -> Mixture:
    angle = torch.arange(3) * 2 * torch.pi / 3
    return Mixture(torch.ones(3), radius * torch.stack([angle.cos(), angle.sin()], 1), 0.5, labels=[0, 1, 2])


def drawn(w: float, n: int = 1500) -> Tensor:
    """log p(c | x), (n, 3), of samples of class 0 by the ODE, from the same noise for every w."""
    law = three()
    den, x = CFG(law.denoiser(EDM(80.0)), w), 80 * draw(n, 2)
    label = torch.zeros(n, dtype=torch.long)
    for out in walk(den, x, log_times(80, 1e-3, 60, 80.0), Heun(), Seeded([0]), reuse=True, label=label):
        x = out.x
    return torch.stack([law.log_prob(x, label + c) for c in range(3)], 1).log_softmax(1)


SCALES = (1.0, 1.5, 2.0, 3.0, 5.0, 8.0)


def test_the_class_becomes_certain_as_the_scale_rises() -> None:
    """Three Gaussians of variance .5: mean log p(c | x) is -.31, -.072, -.021, -.0040, -.0005, -.0001."""
    logs = [drawn(w) for w in SCALES]
    own = [float(v[:, 0].mean()) for v in logs]
    entropy = [float(-(v.exp() * v).sum(1).mean()) for v in logs]
    assert all(a < b for a, b in pairwise(own)) and all(a > b for a, b in pairwise(entropy))
    # four standard errors of 1,500 samples, and half a unit of the last digit given
    measured = ((-0.31, 2), (-0.072, 3), (-0.021, 3), (-0.0040, 4), (-0.0005, 4), (-0.0001, 4))
    for v, (want, digit) in zip(logs, measured, strict=True):
        slack = 4 * float(v[:, 0].std()) / len(v) ** 0.5 + 0.5 * 10**-digit
        assert abs(float(v[:, 0].mean()) - want) < slack, (want, float(v[:, 0].mean()))
    assert abs(float((-logs[0][:, 0]).exp().mean()) - 3) < 1.5, "plain: E[1 / p(c | x)] is the number of classes"
    assert float((-logs[1][:, 0]).exp().mean()) < 1.5, "the control: guided, it is not"
