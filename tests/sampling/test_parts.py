"""A sample of several parts (an image and a vector): one loop, one joint law, schedules and times of their own."""

from math import sqrt
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import Simple, affine, ar1, draw
from oneprior import paths
from oneprior.denoiser import Denoiser, Facts
from oneprior.noise import Seeded
from oneprior.paths import Hold, Path
from oneprior.posterior import Posterior
from oneprior.sampling import DDIM, SAMPLERS, Heun, Multistep, sample, walk
from oneprior.schedules import VE, VP, Cosine, RectifiedFlow, Schedule

IMAGE, VECTOR = (1, 2, 2), (3,)
SIZES = {"image": 4, "vector": 3}
# a joint Gaussian over both, strongly correlated across
K, MEAN = ar1(7, 0.8), torch.linspace(-0.5, 0.5, 7, dtype=torch.float64)
SAME: dict[str, Schedule] = {"image": Cosine(), "vector": Cosine()}
OTHER: dict[str, Schedule] = {"image": Cosine(), "vector": VP()}
SETS = {"same": SAME, "vp": OTHER, "ve": {"image": RectifiedFlow(), "vector": VE()}}


class Joint(Denoiser):
    """The exact joint posterior mean, each part with its own schedule and its own time."""

    schedule: Any

    def __init__(self, schedules: dict[str, Schedule]) -> None:
        super().__init__()
        self.schedule, self.facts = schedules, Facts(time_axes=3)
        self.calls: list[dict[str, Any]] = []

    def posterior(self, x: dict[str, Tensor], t: Any, **cond: Any) -> dict[str, Posterior]:
        self.calls.append(dict(t))
        a, s = [], []
        for k, v in x.items():
            alpha, _, sigma = self.schedule[k].at(t[k])
            a += [torch.as_tensor(alpha, dtype=torch.float64).expand(1, *v.shape[1:]).reshape(-1)]
            s += [torch.as_tensor(sigma, dtype=torch.float64).expand(1, *v.shape[1:]).reshape(-1)]
        A, S = torch.cat(a), torch.cat(s)
        flat = torch.cat([v.double().flatten(1) for v in x.values()], 1)
        gain = torch.linalg.solve(A[:, None] * K * A + torch.diag(S * S), A[:, None] * K).mT
        D = (MEAN + (flat - A * MEAN) @ gain.mT).split([SIZES[k] for k in x], 1)
        return {
            k: Posterior(d.reshape(v.shape).to(v), v, self.schedule[k], t[k])
            for d, (k, v) in zip(D, x.items(), strict=True)
        }


def shapes(n: int) -> dict[str, tuple[int, ...]]:
    return {"image": (n, *IMAGE), "vector": (n, *VECTOR)}


def split(flat: Tensor) -> dict[str, Tensor]:
    return {"image": flat[:, :4].reshape(-1, *IMAGE), "vector": flat[:, 4:]}


def flat(x: dict[str, Tensor]) -> Tensor:
    return torch.cat([v.flatten(1) for v in x.values()], 1)


def law(schedules: dict[str, Schedule], sampler: Any, n: int, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """Mean and covariance that a deterministic sampler draws, from unit noise of each part's own level."""

    def run(z: Tensor) -> Tensor:
        start = {k: v * schedules[k].at(1.0)[2] for k, v in split(z).items()}
        seeds = range(len(z))
        return flat(
            sample(Joint(schedules), shapes(len(z)), steps=n, sampler=sampler, seeds=seeds, start=start, **kwargs)
        )

    c, M = affine(run, (7,))
    return c, M @ M.mT


@pytest.mark.parametrize("which", SETS)
@pytest.mark.parametrize(
    ("name", "bar"),
    [("ddim", 0.035), ("2m", 2.5e-3), ("heun", 2e-3), ("unipc3", 3e-3), ("ipndm4", 2e-3), ("angle3", 2e-3)],
)
def test_the_loop_draws_the_joint_law(which: str, name: str, bar: float) -> None:
    """Parts of different schedules too: Heun asks for both whenever one of them needs its second call."""
    mean, cov = law(SETS[which], name, 120)
    assert (cov - K).abs().max() < bar
    # VP and VE start a little short of pure noise, and the alpha x_0 left out of it has a mean
    exact = 1e-5 if name == "angle3" else 1e-12  # the angle interpolates what is not affine in the mean
    assert (mean - MEAN).abs().max() < {"same": exact, "vp": 5e-3, "ve": 0.015}[which]


@pytest.mark.parametrize("name", [name for name, s in SAMPLERS.items() if not s.solver.variance])
def test_a_part_that_is_given_comes_back_bit_identical(name: str) -> None:
    den, n = Joint(OTHER), 6
    value = draw(n, *VECTOR, dtype=torch.float32)
    x = sample(den, shapes(n), steps=5, sampler=name, seeds=range(n), hold=Hold({"vector": value}))
    assert torch.equal(x["vector"], value) and x["image"].shape == (n, *IMAGE) and x["image"].dtype == torch.float32
    assert all(t["vector"] == 0.0 and t["image"] > 0 for t in den.calls)


@pytest.mark.parametrize("which", ["same", "ve"])
def test_given_one_part_the_other_has_the_conditional_law(which: str) -> None:
    value = torch.tensor([0.8, -0.4, 1.1]).double()
    gain = K[:4, 4:] @ torch.linalg.inv(K[4:, 4:])

    def run(z: Tensor) -> Tensor:
        start = {k: v * SETS[which][k].at(1.0)[2] for k, v in split(z).items()}
        hold = Hold({"vector": value.expand(len(z), 3)})
        den, n = Joint(SETS[which]), len(z)
        x = sample(den, shapes(n), steps=200, sampler="2m", seeds=range(n), start=start, hold=hold)
        assert torch.equal(x["vector"], hold.value["vector"])
        return x["image"].flatten(1)

    z = torch.cat([torch.zeros(1, 7), torch.eye(7)]).double()
    out = run(z)
    mean, M = out[0], (out[1:] - out[0]).mT
    assert (mean - MEAN[:4] - gain @ (value - MEAN[4:])).abs().max() < 1e-9
    assert (M @ M.mT - K[:4, :4] + gain @ K[4:, :4]).abs().max() < 2e-3


def test_some_elements_of_a_part_held() -> None:
    mask = torch.zeros(1, 1, 2, 2, dtype=torch.bool)
    mask[..., 0, 0] = True
    value = torch.full((4, *IMAGE), 0.7)
    hold = Hold({"image": value}, {"image": mask})
    x = sample(Joint(SAME), shapes(4), steps=5, seeds=range(4), hold=hold)
    assert bool((x["image"][:, 0, 0, 0] == 0.7).all()) and bool((x["image"][:, 0, 1, 1] != 0.7).all())


@pytest.mark.parametrize("name", ["ddim", "2m", "heun", "unipc2", "ipndm4"])
def test_one_part_after_another(name: str) -> None:
    """A track a part: the vector first, then the image given it; the law is the joint one all the same."""
    n = 60
    fall = torch.linspace(1, 0, n + 1, dtype=torch.float64)
    matrix = torch.stack([torch.cat([torch.ones(n), fall]), torch.cat([fall[:-1], torch.zeros(n + 1)])], 1)
    path = Path(matrix, {"image": 0, "vector": 1})

    def run(z: Tensor) -> Tensor:
        return flat(sample(Joint(SAME), shapes(len(z)), path=path, sampler=name, seeds=range(len(z)), start=split(z)))

    mean, M = affine(run, (7,))
    assert (M @ M.mT - K).abs().max() < (0.07 if name == "ddim" else 5e-3) and (mean - MEAN).abs().max() < 1e-9


def test_seeds_serve_every_part() -> None:
    n = 8
    whole = sample(Joint(OTHER), shapes(n), steps=4, sampler="ancestral", seeds=range(n))
    halves = [sample(Joint(OTHER), shapes(4), steps=4, sampler="ancestral", seeds=s) for s in (range(4), range(4, 8))]
    for k, v in whole.items():
        assert (torch.cat([h[k] for h in halves]) - v).abs().max() < 1e-4
    start = Seeded(range(n))
    assert not torch.equal(start(0, torch.empty(n, 3), "image"), start(0, torch.empty(n, 3), "vector"))


def test_stochastic_parts_have_the_joint_law() -> None:
    n = 1000
    x = flat(sample(Joint(SAME), shapes(n), steps=60, sampler="sde2m", seeds=range(n))).double()
    assert (x.mean(0) - MEAN).abs().max() < 5 / sqrt(n)
    assert (torch.cov(x.T) - K).abs().max() < 5 * sqrt(2 / n) + 0.03


def test_steps_of_parts() -> None:
    x = split(draw(2, 7))
    steps = list(walk(Joint(SAME), x, paths.sync([1.0, 0.5, 0.0]), Multistep(), Seeded([1, 2])))
    assert set(steps[0].x) == set(steps[0].mean) == set(steps[0].history) == {"image", "vector"}
    assert steps[0].t == {"image": 1.0, "vector": 1.0} and steps[0].mean["vector"].shape == (2, 3)
    new = split(draw(2, 7, seed=3))
    last = None
    for last in walk(Joint(SAME), x, paths.sync([0.9, 0.5, 0.0]), DDIM(), Seeded([1, 2])):
        if last.index == 0:
            last.x = new
    want = Joint(SAME)(new, {"image": 0.5, "vector": 0.5})
    assert last is not None
    torch.testing.assert_close(flat(last.x), torch.cat([p.mean.flatten(1) for p in want.values()], 1))


def test_a_part_of_one_call_rests_while_another_takes_its_second() -> None:
    """Rectified flow starts at alpha = 0, where Heun is Euler; VP does not."""
    den = Joint({"image": RectifiedFlow(), "vector": VP()})
    list(walk(den, split(draw(2, 7)), paths.sync([1.0, 0.5, 0.25, 0.0]), Heun(), Seeded([1, 2])))
    assert [t["image"] for t in den.calls] == [t["vector"] for t in den.calls] == [1.0, 0.5, 0.5, 0.25, 0.25]


def test_gradients_reach_the_parts() -> None:
    x = {k: v.requires_grad_() for k, v in split(draw(2, 7)).items()}
    *_, out = walk(Joint(SAME), x, paths.sync([0.9, 0.5, 0.1]), DDIM(), Seeded([1, 2]), grad=2)
    grads = torch.autograd.grad(flat(out.x).sum(), list(x.values()))
    assert all(bool((g != 0).any()) for g in grads)


def test_a_broken_part_is_named() -> None:
    class Broken(Joint):
        def posterior(self, x: dict[str, Tensor], t: Any, **cond: Any) -> dict[str, Posterior]:
            post = super().posterior(x, t)
            return {k: p.replace(p.mean * (float("nan") if k == "vector" else 1)) for k, p in post.items()}

    with pytest.raises(FloatingPointError, match="in part 'vector' after network call 1 of 3"):
        sample(Broken(SAME), shapes(2), steps=3, seeds=[1, 2])
    # a part that is given does not look at what the network makes of it
    value = draw(2, 3, dtype=torch.float32)
    x = sample(Broken(SAME), shapes(2), steps=3, seeds=[1, 2], hold=Hold({"vector": value}))
    assert torch.equal(x["vector"], value) and bool(torch.isfinite(x["image"]).all())


def test_mismatched_parts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"the parts \['image'\], the sample has 'vector'"):
        sample(Joint(SAME), shapes(2), path=Path(torch.tensor([[1.0], [0.0]]).double(), {"image": 0}), seeds=[1, 2])
    with pytest.raises(ValueError, match="3 seeds for 2 samples"):
        sample(Joint(SAME), shapes(2), seeds=[1, 2, 3])


def test_one_part_is_the_plain_case() -> None:
    one = Simple(lambda x, t: 0.5 * x, VP())

    class Boxed(Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.schedule, self.facts = VP(), Facts()

        def posterior(self, x: Any, t: Any, **cond: Any) -> Any:
            return {"a": one(x["a"], t["a"])}

    x0 = draw(2, 3)
    boxed = sample(Boxed(), {"a": (2, 3)}, steps=4, seeds=[1, 2], start={"a": x0})
    assert torch.equal(boxed["a"], sample(one, (2, 3), steps=4, seeds=[1, 2], start=x0))
