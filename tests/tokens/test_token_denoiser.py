"""The exact denoiser in both conventions is one posterior; declaring the wrong one is a fault that shows in the law."""

import pytest
import torch
from token_laws import ancestral_law, distance, exact, joint, states
from torch import nn

from oneprior.denoiser import Facts
from oneprior.tokens import Absorbing, Corruption, Hybrid, MaskReplace, TokenDenoiser, Uniform

CORRUPTIONS: dict[str, Corruption] = {
    "absorbing": Absorbing(4),
    "uniform": Uniform(3),
    "hybrid": Hybrid(4, 0.2),
    "mask-and-replace": MaskReplace(4),
}
EVERY = pytest.mark.parametrize("corruption", CORRUPTIONS.values(), ids=CORRUPTIONS)


@EVERY
def test_posterior_by_bayes_rule(corruption: Corruption) -> None:
    """Against sums over sequences written out with the marginals alone."""
    law, t = joint(3, 3), 0.6
    x = states(corruption.vocab, 3)
    got = exact(law, corruption)(x, t).exp()
    q = corruption.q(torch.arange(3)[None], t)[0]  # row: x_0, column: x_t
    for z, p in zip(x[::7], got[::7], strict=True):
        joint_ = law.table.clone()
        for i in range(3):
            joint_ = joint_ * q[:, z[i]].reshape([-1 if k == i else 1 for k in range(3)])
        for i in range(3):
            want = joint_.sum([k for k in range(3) if k != i]) / joint_.sum()
            torch.testing.assert_close(p[i, :3], want, atol=1e-12, rtol=0)
    assert (got[..., 3:] == 0).all()


@EVERY
def test_two_conventions_one_posterior(corruption: Corruption) -> None:
    law, x = joint(3, 3), states(corruption.vocab, 3)
    a, b = exact(law, corruption)(x, 0.6), exact(law, corruption, "loo")(x, 0.6)
    torch.testing.assert_close(a.exp(), b.exp(), atol=1e-12, rtol=0)


def test_chain_converges_and_a_mixed_convention_does_not() -> None:
    """Uniform noise, three tokens: TV of the exact chain falls as 1/N; p in the place of l stalls, for every N."""
    law, corruption = joint(3, 3), Uniform(3)
    right, wrong = exact(law, corruption), exact(law, corruption, "loo", oracle="posterior")
    for n, tv, stalled in ((4, 0.2205, 0.3255), (16, 0.0615, 0.3144), (64, 0.0154, 0.3136), (256, 0.0039, 0.3136)):
        grid = torch.linspace(1, 0, n + 1).tolist()
        assert distance(ancestral_law(right, 3, grid), law) == pytest.approx(tv, abs=1e-4)
        assert distance(ancestral_law(wrong, 3, grid), law) == pytest.approx(stalled, abs=1e-4)


def test_certain_tokens_are_copied_and_the_mask_is_never_data() -> None:
    den = TokenDenoiser(Constant(5), Absorbing(5))
    x = torch.tensor([[2, 4, 0]])
    p = den(x, 0.5).exp()
    torch.testing.assert_close(p[0, 0], torch.eye(5, dtype=torch.float64)[2])
    torch.testing.assert_close(p[0, 1], torch.tensor([0.25] * 4 + [0.0], dtype=torch.float64))
    known = torch.tensor([[0.0, 0.7, 0.7]])
    den = TokenDenoiser(Constant(5), Uniform(5), facts=Facts(time_axes=1))
    torch.testing.assert_close(den(x, known).exp()[0, 0], torch.eye(5, dtype=torch.float64)[2])


class Constant(nn.Module):
    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.vocab = vocab

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*x.shape, self.vocab)


def test_what_is_refused() -> None:
    den, x = TokenDenoiser(Constant(4), Absorbing(4)), torch.tensor([[0, 3]])
    with pytest.raises(ValueError, match=r"integers in \[0, 4\)"):
        den(torch.tensor([[0, 4]]), 0.5)
    with pytest.raises(ValueError, match="vocabulary of 4"):
        TokenDenoiser(Constant(3), Absorbing(4))(x, 0.5)
    with pytest.raises(ValueError, match="time_axes=0"):
        den(x, torch.tensor([[0.0, 0.5]]))
    with pytest.raises(ValueError, match="mask at time 0"):
        den(x, 0.0)
    with pytest.raises(ValueError, match="not known"):
        TokenDenoiser(Constant(4), Absorbing(4), "x0")  # type: ignore[arg-type]
