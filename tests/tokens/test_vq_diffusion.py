"""Mask and replace as VQ-Diffusion has it: strides are products of steps, masks leave on time, what a loss ends at."""

import math

import pytest
import torch
from torch import Tensor, nn

from oneprior import tokens
from oneprior.tokens import Ancestral, MaskReplace, TokenDenoiser

PRESETS = {"paper": MaskReplace(7), "released": MaskReplace(7, masked_end=0.99999, floor=9e-6)}


@pytest.mark.parametrize("name", PRESETS)
def test_strides_are_products_of_steps(name: str) -> None:
    """K = 6, T = 20: the law of a stride is the product of its one-step matrices, forward and back."""
    c, T, every = PRESETS[name], 20, torch.arange(7)[None]
    for s, t in ((3, 4), (3, 9), (10, 20), (0, 5)):
        product = torch.eye(7, dtype=torch.float64)
        for i in range(s, t):
            product = product @ c.forward(every, (i + 1) / T, i / T)[0].T
        torch.testing.assert_close(c.forward(every, t / T, s / T)[0].T, product, atol=1e-12, rtol=0)
        torch.testing.assert_close(product.sum(1), torch.ones(7, dtype=torch.float64), atol=1e-12, rtol=0)
        p = torch.tensor([0.3, 0.2, 0.2, 0.1, 0.1, 0.1, 0.0], dtype=torch.float64)
        first = c.q(torch.arange(6)[None], s / T)[0]
        for z in range(7):
            joint = first * product[:, z]  # rows x_0, columns x_s
            total = joint.sum(1, keepdim=True)
            want = (p[:6, None] * joint / total.clamp(min=1e-300)).sum(0)
            got = c.reverse(p[None, None], torch.tensor([[z]]), t / T, s / T)[0, 0]
            torch.testing.assert_close(got, want, atol=1e-12, rtol=0)


class Shares(nn.Module):
    """No opinion on six codes; writes down the share of masks."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = list[float]()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.seen.append((x == 6).double().mean().item())
        return torch.zeros(*x.shape, 7)


@pytest.mark.parametrize("steps", [100, 50, 25, 10])
def test_masks_leave_on_time(steps: int) -> None:
    net, c = Shares(), PRESETS["paper"]
    Ancestral(steps)(TokenDenoiser(net, c), (50, 40), seeds=range(50))
    for got, t in zip(net.seen, tokens.even(steps), strict=False):
        m = 0.9 * t
        assert abs(got - m) <= 4 * math.sqrt(m * (1 - m) / 2000)


def test_the_shortcut_of_the_released_sampler_does_not() -> None:
    """One-step posteriors at every tenth step: 76 % are masked still where 10 % are due; a stride is at its share."""
    c, mask, p = PRESETS["released"], torch.tensor([[6]]), torch.full((1, 1, 7), 1 / 6, dtype=torch.float64)
    p[..., 6] = 0
    short = stride = 1.0
    for k in range(9, 0, -1):
        s = k / 10
        short *= c.reverse(p, mask, s + 0.01, s)[0, 0, 6].item()
        stride *= c.reverse(p, mask, s + 0.1, s)[0, 0, 6].item()
    assert stride == pytest.approx(0.1, abs=1e-4)
    assert short == pytest.approx(0.759, abs=1e-3)


class Step(MaskReplace):
    """abar .5 -> .4 and gbar .45 -> .54."""

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        kept, masked = torch.where(t > 0.5, 0.4, 0.5).double(), torch.where(t > 0.5, 0.54, 0.45).double()
        return kept, 1 - kept - masked, masked


@pytest.mark.parametrize("kl, ce", [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_the_auxiliary_loss_goes_with_the_posterior(kl: float, ce: float) -> None:
    """Free logits at one token z = 1: the mixture law ends at p with every loss; p in the place of l ends elsewhere."""
    c, z = Step(4), torch.tensor([[1]])
    true = torch.tensor([0.7, 0.2, 0.1, 0.0], dtype=torch.float64)[None, None]
    law = c.reverse(true, z, 1.0, 0.25)[..., :3]  # no code goes back to a mask

    def end(plugged: bool) -> Tensor:
        logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        made = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-10)

        def loss() -> Tensor:
            made.zero_grad()
            p = torch.cat([logits.softmax(0), logits.new_zeros(1)])[None, None]
            model = c.reverse(c.from_loo(p, z, 1.0) if plugged else p, z, 1.0, 0.25)[..., :3]
            nats = kl * (law * (law / model).log()).sum() - ce * (true[..., :3] * p[..., :3].log()).sum()
            nats.backward()
            return nats

        made.step(loss)  # type: ignore[arg-type]
        return logits.detach().softmax(0)

    torch.testing.assert_close(end(plugged=False), true[0, 0, :3], atol=1e-4, rtol=0)
    wrong = {(1.0, 0.0): (0.865, 0.012, 0.124), (0.0, 1.0): (0.7, 0.2, 0.1), (1.0, 1.0): (0.799, 0.088, 0.114)}
    want = torch.tensor(wrong[kl, ce], dtype=torch.float64)
    torch.testing.assert_close(end(plugged=True), want, atol=1e-3, rtol=0)
