"""Guidance distillation: one call of a student for the two of guidance, at any scale."""

from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import draw
from oneprior.conditions import Conditions, Label
from oneprior.denoiser import NetworkDenoiser, wrap
from oneprior.exact import Mixture
from oneprior.guidance import APG, CFG, Distill, Distilled, Scales
from oneprior.nets import MLPConfig, build
from oneprior.objective import Objective
from oneprior.sampling import sample
from oneprior.schedules import VP, RectifiedFlow
from oneprior.times import Uniform
from oneprior.training.settings import TrainSettings
from oneprior.training.trainer import Trainer

ANGLE = torch.arange(3) * 2 * torch.pi / 3
LAW = Mixture(torch.ones(3), 1.2 * torch.stack([ANGLE.cos(), ANGLE.sin()], 1), 0.5, labels=[0, 1, 2])
TEACHER, SCALES = LAW.denoiser(VP()), Scales(1.0, 8.0)


def network(vector: int = SCALES.width, width: int = 48) -> NetworkDenoiser:
    net = build(MLPConfig((2,), classes=3, vector=vector, width=width, depth=2), seed=0)
    return wrap(net, VP(), "v", null={"label": 3})


def batch(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x0, noise = LAW.sample(n, generator=g).float(), torch.randn(n, 2, generator=g)
    return x0, torch.rand(n, generator=g) * 0.998 + 0.001, noise, torch.randint(3, (n,), generator=g)


@pytest.fixture(scope="module")
def student() -> NetworkDenoiser:
    den, steps, lr = network(), 300, 4e-3
    objective = Distill(TEACHER, SCALES, Objective(law=Uniform(1e-3, 1.0)))
    adam = torch.optim.AdamW(den.parameters(), lr=lr, weight_decay=0.0)
    for i in range(steps):
        adam.param_groups[0]["lr"] = lr * min(1.0, i / 50) * (1 - i / steps)
        x0, t, noise, label = batch(256, i)
        adam.zero_grad()
        objective(den, x0, t, noise, label=label).mean().backward()
        adam.step()
    return den.eval()


def test_the_student_answers_like_the_guided_teacher(student: NetworkDenoiser) -> None:
    x0, _, noise, label = batch(1000, 10**6)
    error, wrong, plain = 0.0, 0.0, 0.0
    with torch.no_grad():
        for w in (1.5, 3.0, 6.0):
            for t in (0.2, 0.5, 0.8):
                a, _, s = VP().at(t)
                x = a * x0 + s * noise
                want = CFG(TEACHER, w)(x, t, label=label).mean
                error += float((Distilled(student, w, SCALES)(x, t, label=label).mean - want).square().mean())
                wrong += float((Distilled(student, 8 / w, SCALES)(x, t, label=label).mean - want).square().mean())
                plain += float((TEACHER(x, t, label=label).mean - want).square().mean())
    assert error < 0.01 * plain, f"{error / plain:.4f} of the squared distance between guided and not: measured .0033"
    assert wrong > 0.1 * plain, "the control: told another scale it answers otherwise"


def test_the_student_draws_what_the_guided_teacher_draws(student: NetworkDenoiser) -> None:
    label = torch.arange(300) % 3
    kwargs: Any = {"steps": 10, "sampler": "2m", "seeds": range(300), "label": label}
    want, plain = sample(CFG(TEACHER, 3.0), (300, 2), **kwargs), sample(TEACHER, (300, 2), **kwargs)
    got = sample(Distilled(student, 3.0, SCALES), (300, 2), **kwargs)
    assert (got - want).square().sum(1).mean() < 0.05 * (plain - want).square().sum(1).mean()
    scales = torch.tensor([1.0, 3.0, 8.0]).repeat(100)
    each = sample(Distilled(student, scales, SCALES), (300, 2), **kwargs)
    torch.testing.assert_close(each[1::3], got[1::3])


def test_the_target_is_the_guided_mean() -> None:
    """A student that answers D_w has no loss; the loss is |D_s - D_w|^2 in the base's own weight."""
    x0, t, noise, label = batch(6, 0)
    for guide in (CFG, lambda den, w: APG(den, w, norm=1.0)):
        objective, den = Distill(TEACHER, SCALES, guide=guide), network()
        a, _, s = VP().at(t)
        x = a[:, None] * x0 + s[:, None] * noise
        want = guide(TEACHER, SCALES.draw(noise))(x, t, label=label)
        loss = objective(den, x0, t, noise, label=label)  # an untrained network answers v = 0
        v = a[:, None] * want.eps - s[:, None] * want.mean
        torch.testing.assert_close(loss, v.square().mean(1), rtol=1e-4, atol=1e-6)
        parts = [objective(den, x0[i], t[i], noise[i], label=label[i]) for i in (slice(0, 2), slice(2, 6))]
        torch.testing.assert_close(torch.cat(parts), loss)


def test_scales_are_uniform_in_the_logarithm_and_know_nothing_of_the_noise() -> None:
    noise = draw(20_000, 2, dtype=torch.float32)
    u = SCALES.draw(noise).double().log() / torch.tensor(8.0).log()
    rank = (torch.arange(20_000) + 0.5) / 20_000
    assert (u.sort().values - rank).abs().max() < 1.63 / 20_000**0.5, "Kolmogorov's 1 % point"
    for other in (noise[:, 0], noise[:, 1], noise[:, 0] ** 2, noise.norm(dim=1)):
        assert abs(float(torch.corrcoef(torch.stack([u, other.double()]))[0, 1])) < 4 / 20_000**0.5
    assert torch.equal(SCALES.draw(noise[5:7]), SCALES.draw(noise)[5:7])
    e = SCALES.embed(torch.tensor([1.0, 2.0, 8.0]))
    assert e.shape == (3, SCALES.width) and (e[0] - e[2]).norm() > 1


def test_it_trains_like_any_objective() -> None:
    class Points:
        def __len__(self) -> int:
            return 300

        def batch(self, indices: Any) -> dict[str, Tensor]:
            x = LAW.sample(300, seeds=range(300)).float()[torch.as_tensor(indices)]
            return {"x": x, "label": torch.as_tensor(indices) % 3}

    teacher = network(0)
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    den, objective = network(), Distill(teacher, SCALES)
    settings = TrainSettings(samples=64, batch=32, warmup=0, save_minutes=None)
    conditions = Conditions({"label": Label(("a", "b", "c"))})
    trainer = Trainer(den, objective, Points(), conditions=conditions, settings=settings)
    assert [state.n for state in trainer.fit()] == [32, 64]
    assert not objective.state_dict() and not list(objective.parameters())
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert not teacher.training and all(p.grad is None for p in teacher.parameters())


def test_what_is_refused() -> None:
    den, x = network(), torch.zeros(2, 2)
    for w in (0.5, 9.0, torch.tensor([2.0, 9.0])):
        with pytest.raises(ValueError, match=r"trained from 1\.0 to 8\.0"):
            Distilled(den, w, SCALES)
    with pytest.raises(ValueError, match=r"0 < lo < hi"):
        Scales(4.0, 2.0)
    other = wrap(den.net, RectifiedFlow(), "x0")
    with pytest.raises(ValueError, match="the student runs on"):
        Distill(TEACHER, SCALES)(other, x, torch.tensor([0.5, 0.5]), x, label=torch.tensor([0, 1]))
    with pytest.raises(TypeError, match="vector"):
        Distilled(network(0), 2.0, SCALES)(x, 0.5, label=torch.tensor([0, 1]))
