"""`check_tokens` passes the exact network in its convention and names the other one where it was meant."""

import pytest
import torch

from oneprior.check_tokens import check_tokens
from oneprior.exact import TokenLaw
from oneprior.tokens import (
    Absorbing,
    Corruption,
    Hybrid,
    MaskReplace,
    MatrixCorruption,
    Temperature,
    TokenDenoiser,
    Uniform,
    discretised_gaussian,
)

LAW = TokenLaw(torch.rand(3, 3, 3, generator=torch.Generator().manual_seed(0)) ** 4)
REPLACING: dict[str, Corruption] = {
    "uniform": Uniform(3),
    "hybrid": Hybrid(4, 0.2),
    "mask-and-replace": MaskReplace(4),
    "matrix": MatrixCorruption(3, discretised_gaussian(3, 20, 0.1, 2.0)),
}


@pytest.mark.parametrize("corruption", REPLACING.values(), ids=REPLACING)
def test_the_convention_is_told(corruption: Corruption) -> None:
    loo, posterior = LAW.net(corruption, loo=True), LAW.net(corruption)
    for den in (TokenDenoiser(loo, corruption, "loo"), TokenDenoiser(posterior, corruption)):
        report = check_tokens(den, LAW)
        assert report.ok and max(row.measured for row in report.rows) < 1e-9
    with pytest.raises(ValueError, match="did you mean convention='loo'"):
        check_tokens(TokenDenoiser(loo, corruption), LAW)
    with pytest.raises(ValueError, match="did you mean convention='posterior'"):
        check_tokens(TokenDenoiser(posterior, corruption, "loo"), LAW)


def test_on_masks_both_are_one() -> None:
    for loo in (False, True):
        assert check_tokens(TokenDenoiser(LAW.net(Absorbing(4), loo=loo), Absorbing(4)), LAW).ok


def test_a_network_of_another_law() -> None:
    other = TokenLaw(torch.rand(3, 3, 3, generator=torch.Generator().manual_seed(1)) ** 4)
    report = check_tokens(TokenDenoiser(other.net(Uniform(3)), Uniform(3)), LAW, strict=False)
    assert not report.ok and "neither fits" in str(report)
    with pytest.raises(ValueError, match="3 symbols does not go with"):
        check_tokens(TokenDenoiser(LAW.net(Uniform(4)), Uniform(4)), LAW)
    with pytest.raises(TypeError, match="Temperature is no posterior"):
        check_tokens(Temperature(TokenDenoiser(LAW.net(Uniform(3)), Uniform(3)), 0.5), LAW)  # type: ignore[arg-type]
