"""Windows fused into a canvas: nothing changes where windows do not matter, and no seam shows where they do."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from skimage import data
from torch import Tensor

from helpers import ANCHORED, Simple, ar1, draw
from oneprior.denoiser import Denoiser
from oneprior.exact import Gaussian
from oneprior.guidance import MMPS, Tiled
from oneprior.operators import Blur, Mask, Measurement, Operator
from oneprior.posterior import Posterior
from oneprior.sampling import sample
from oneprior.schedules import RectifiedFlow, Schedule

SIDE = 16
COV = 0.25 * torch.kron(ar1(SIDE, 0.95), ar1(SIDE, 0.95))


def local(schedule: Schedule | None = None, side: int = SIDE) -> Denoiser:
    """The exact denoiser of a Gaussian of short range on side x side pixels."""
    cov = COV if side == SIDE else 0.25 * torch.kron(ar1(side, 0.95), ar1(side, 0.95))
    return Gaussian(torch.zeros(1, side, side), cov).denoiser(schedule or RectifiedFlow())


def photograph(height: int, width: int) -> Tensor:
    """(1, 1, height, width) in [-1, 1]."""
    x = torch.from_numpy(data.camera()).float()[None, None] / 127.5 - 1
    return torch.nn.functional.interpolate(x, (height, width), mode="bicubic", antialias=True)


def seams(x: Tensor, tiles: Tiled) -> float:
    """Mean jump between neighbours across the borders of windows over the mean jump elsewhere."""
    across, inside = [], []
    for axis, w in enumerate(tiles.window):
        v = x.movedim(2 + axis, -1)
        jump, n = v.diff(dim=-1).abs(), v.shape[-1]
        starts = tiles._starts(axis, n)
        border = torch.zeros(n - 1, dtype=torch.bool)
        border[[c - 1 for s in starts for c in (s, s + w) if 0 < c < n]] = True
        across.append(jump[..., border].flatten())
        inside.append(jump[..., ~border].flatten())
    return float(torch.cat(across).mean() / torch.cat(inside).mean())


def test_one_window_is_the_denoiser_itself() -> None:
    den, x = local(), draw(2, 1, SIDE, SIDE)
    one, own = Tiled(den, (SIDE, SIDE))(x, 0.4), den(x, 0.4)
    torch.testing.assert_close(one.mean, own.mean)
    torch.testing.assert_close(one.var, own.var)


@pytest.mark.parametrize("batch", [1, 5, 64])
@pytest.mark.parametrize(("size", "overlap"), [((9, 13), 2), ((8, 8), 0), ((5, 4), 3)])
def test_independent_pixels_do_not_see_windows(size: tuple[int, int], overlap: int, batch: int) -> None:
    """Exactly the untiled answer, for times a sample and a pixel, with y and label cut and repeated rightly."""
    law = Gaussian(torch.zeros(2, 4, 4), 0.3)
    whole = Gaussian(torch.zeros(2, *size), 0.3)
    x, y = draw(3, 2, *size), draw(3, 2, *size, seed=1)
    times = (0.5, torch.tensor([0.2, 0.5, 0.9]), torch.rand(3, 1, *size, generator=torch.Generator().manual_seed(0)))
    for t in times:
        for schedule, cond in ((RectifiedFlow(), {}), (ANCHORED["ResShift"], {"y": y})):
            tiles = Tiled(law.denoiser(schedule), (4, 4), overlap, batch)
            found, known = tiles(x, t, **cond), whole.denoiser(schedule)(x, t, **cond)
            torch.testing.assert_close(found.mean, known.mean)
            torch.testing.assert_close(found.var, known.var.expand_as(found.var))
            torch.testing.assert_close(found.eps, known.eps)


def test_conditions_go_to_their_windows() -> None:
    seen: list[dict[str, Any]] = []

    def kept(x: Tensor, t: Any, **cond: Any) -> Tensor:
        seen.append({**cond, "x": x})
        return x

    x = draw(2, 1, 24, 16)
    Tiled(Simple(kept, RectifiedFlow()), (16, 16), batch=4)(x, 0.5, label=torch.tensor([3, 7]), image=x)
    assert seen[0]["label"].tolist() == [3, 3, 7, 7] and torch.equal(seen[0]["image"], seen[0]["x"])
    assert torch.equal(seen[0]["x"][1], x[0, :, 8:])


OPERATORS: dict[str, Operator] = {"mask": Mask.random((1, 192, 256), 0.5), "blur": Blur.gaussian(1.5)}


@pytest.mark.parametrize("name", OPERATORS)
def test_a_large_picture_without_seams(name: str) -> None:
    """Zero-shot: the measurement is met on the whole picture, the prior by windows. The bar is that of the card, 1.05
    times what the photograph itself has at those very rows and columns (1.045: it is small)."""
    x0, A = photograph(192, 256), OPERATORS[name]
    y = A(x0) + 0.05 * A(draw(*x0.shape, dtype=torch.float32)) if name == "mask" else A(x0)
    measured = Measurement(y, A, 0.05)
    tiles = Tiled(local(), (SIDE, SIDE), 8, batch=512)
    x = sample(MMPS(tiles, measured, iterations=3), tuple(x0.shape), steps=6, seeds=[0])
    assert seams(x, tiles) <= 1.05 * seams(x0, tiles)
    assert float((A(x) - y).square().mean()) ** 0.5 < 0.06  # met everywhere, to about its noise
    assert name == "blur" or float((x - x0).square().mean()) < 0.1 * float((y - x0).square().mean())


def test_without_overlap_the_seams_show() -> None:
    """The figure above can fail: samples of the prior by windows that do not overlap are not one picture."""
    shape, found = (1, 1, 96, 128), []
    for overlap in (0, 8):
        tiles = Tiled(local(), (SIDE, SIDE), overlap, batch=512)
        found.append(seams(sample(tiles, shape, steps=10, seeds=[0]), tiles))
    assert found[0] > 1.5 and found[1] <= 1.05


def test_memory_does_not_hold_the_windows_graph() -> None:
    """With gradients, what autograd keeps is the picture, not what each window computed; and the gradient is right."""
    x, tiles = draw(1, 1, 48, 48).requires_grad_(), Tiled(local(), (SIDE, SIDE), 8, batch=2)

    def kept(run: Callable[[], Posterior]) -> tuple[int, Tensor]:
        storages: dict[int, int] = {}

        def pack(v: Tensor) -> Tensor:
            storages[v.untyped_storage().data_ptr()] = v.untyped_storage().nbytes()
            return v

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda v: v):
            out = run().mean
        return sum(storages.values()), out

    size, out = kept(lambda: tiles(x, 0.5))
    at_once, _ = kept(lambda: tiles.inner(draw(25, 1, SIDE, SIDE).requires_grad_(), 0.5))
    assert size < at_once / 2
    u = draw(1, 1, 48, 48, seed=3)
    (grad,) = torch.autograd.grad(out, x, u)
    with torch.no_grad():  # D is linear in x, and each window's Jacobian symmetric: J^T u fused is J u
        slope = tiles(x + u, 0.5).mean - tiles(x, 0.5).mean
    torch.testing.assert_close(grad, slope)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="overlap = 16: 0 to 15"):
        Tiled(local(), (16, 16), 16)
    with pytest.raises(ValueError, match=r"windows of \(16, 16\) do not fit into x of shape \(1, 1, 12, 40\)"):
        Tiled(local(), (16, 16))(draw(1, 1, 12, 40), 0.5)
