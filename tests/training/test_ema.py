"""Averages against their closed forms (proof 3 of the training card)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from training_standins import TinyDenoiser

from oneprior.training.ema import Averages, HalfLife, Power, exponent, inner, rebuild, weights
from oneprior.training.files import load_tensors

STEPS, BATCH = 4000, 8


class Ramp(nn.Module):
    """Two weights that follow n / T and (n / T)^2, and a random walk of 50."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.walk = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(50))
        self.count: torch.Tensor
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))


def run(module: Ramp, averages: Averages, folder: Path | None = None, every: int = 250) -> np.ndarray:
    g = torch.Generator().manual_seed(0)
    path = []
    for i in range(1, STEPS + 1):
        with torch.no_grad():
            module.w.copy_(torch.tensor([i / STEPS, (i / STEPS) ** 2]))
            module.walk += torch.randn(50, generator=g) / STEPS**0.5
            module.walk += 0.02 * np.cos(i / 300)
        module.count += 1
        path.append(module.walk.detach().double().numpy().copy())
        averages.update(i * BATCH, BATCH)
        if folder and i % every == 0:
            averages.snapshot(folder, i * BATCH)
    return np.array(path)


def direct(path: np.ndarray, width: float) -> np.ndarray:
    """The average in float64, step by step, of a width that was never tracked."""
    total = np.zeros(path.shape[1])
    for i, w in enumerate(path, 1):
        beta = (1 - 1 / i) ** (exponent(width) + 1)
        total = beta * total + (1 - beta) * w
    return total


def test_exponents_of_the_published_widths() -> None:
    assert [round(exponent(s), 4) for s in (0.05, 0.10)] == [16.9722, 6.9372]
    assert [round(exponent(s), 2) for s in (0.15, 0.20)] == [3.56, 1.83]
    for s in (0.01, 0.05, 0.1, 0.2, 0.25):
        g = exponent(s)
        assert ((g + 1) / ((g + 2) ** 2 * (g + 3))) ** 0.5 == pytest.approx(s, rel=1e-9)
    with pytest.raises(ValueError, match="relative width"):
        exponent(0.5)


def test_inner_products_are_integrals() -> None:
    na, ga, nb, gb = 3.0, 4.0, 5.0, 2.0
    tau = (np.arange(200_000) + 0.5) * na / 200_000
    pa, pb = (ga + 1) * tau**ga / na ** (ga + 1), (gb + 1) * tau**gb / nb ** (gb + 1)
    assert float(inner(na, ga, nb, gb)) == pytest.approx((pa * pb).sum() * na / 200_000, rel=1e-6)
    assert float(inner(nb, gb, na, ga)) == pytest.approx(float(inner(na, ga, nb, gb)))


def test_averages_of_a_ramp_and_widths_rebuilt_afterwards(tmp_path: Path) -> None:
    module = Ramp()
    averages = Averages(module, [Power(0.05), Power(0.10), HalfLife(1000 * BATCH)])
    path = run(module, averages, tmp_path)
    for width in (0.05, 0.10):
        g = exponent(width)
        kept = averages.state(f"{width:.3f}")
        assert kept["w"][0].item() == pytest.approx((g + 1) / (g + 2), abs=2e-4)
        # steps are taken at their end, half a step late: a bias of E[slope] / 2T = 2.4e-4 on the square
        assert kept["w"][1].item() == pytest.approx((g + 1) / (g + 3), abs=1 / STEPS)
        assert kept["count"] == STEPS
    assert averages.state("0.050")["w"][0].item() == pytest.approx(0.9473, abs=2e-4)

    again = rebuild(tmp_path, 0.075)
    assert again["w"][0].item() == pytest.approx(0.9186, abs=5e-4)
    assert again["count"] == STEPS
    classic = sum(0.001 * 0.999 ** (STEPS - i) * i / STEPS for i in range(1, STEPS + 1))
    assert abs(classic - 0.9186) > 0.1  # the baseline is far off

    for width, nearest in {0.07: "0.050", 0.15: "0.100", 0.20: "0.100"}.items():
        truth = direct(path, width)
        error = np.linalg.norm(rebuild(tmp_path, width)["walk"].numpy() - truth)
        assert error < np.linalg.norm(averages.state(nearest)["walk"].numpy() - truth) / 20
    # an earlier end is a rebuild too
    half = rebuild(tmp_path, 0.1, n=STEPS * BATCH // 2)
    assert half["w"][0].item() == pytest.approx(0.5 * 7.9372 / 8.9372, abs=5e-4)


def test_more_snapshots_rebuild_better() -> None:
    """The profile itself, without training: squared distance of the best combination to the target's."""
    g = exponent(0.15)
    errors = []
    for count in (4, 8, 16):
        at = np.repeat(np.arange(1, count + 1) / count, 2)
        s = np.tile([0.05, 0.10], count)
        x, e = weights(at.tolist(), s.tolist(), 1.0, 0.15), np.array([exponent(w) for w in s])
        gram, b = inner(at[:, None], e[:, None], at[None], e[None]), inner(at, e, 1.0, g)
        errors.append(float(x @ gram @ x - 2 * x @ b + inner(1.0, g, 1.0, g)))
        assert x.sum() == pytest.approx(1)
    assert errors[0] > 2 * errors[1] > 4 * errors[2] > 0


def test_halflife_follows_its_definition() -> None:
    profile = HalfLife(1000)
    assert profile.beta(10**6, 1000) == 0.5
    assert profile.beta(1000, 90) == 0.5  # the warm-up: 9 % of what was seen


def test_applied_lends_the_average_and_gives_the_weights_back() -> None:
    den = TinyDenoiser()
    averages = Averages(den, [Power(0.05), Power(0.10)])
    for i in range(1, 4):
        with torch.no_grad():
            den.inp.weight += 1
        averages.update(i, 1)
    live = {k: v.clone() for k, v in den.state_dict().items()}
    with pytest.raises(RuntimeError, match="on purpose"), averages.applied("0.050") as lent:
        assert lent is den and not den.training
        assert torch.equal(den.inp.weight, averages.state("0.050")["inp.weight"])
        raise RuntimeError("on purpose")
    assert den.training
    assert all(torch.equal(v, live[k]) for k, v in den.state_dict().items())
    with pytest.raises(KeyError, match=r"'0.2'; kept here: 0.050, 0.100"), averages.applied("0.2"):
        pass


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    averages = Averages(module, [Power(0.1)])
    averages.update(1, 1)
    averages.snapshot(tmp_path, 1)
    loaded, _ = load_tensors(tmp_path / "0.100-000000000001.safetensors")
    assert set(loaded) == set(module.state_dict())
    assert torch.equal(loaded["0.weight"], loaded["1.weight"])


def test_rebuild_without_snapshots_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="snapshot_every"):
        rebuild(tmp_path, 0.1)
