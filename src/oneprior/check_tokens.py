"""Does a token denoiser mean what it declares? Its posterior is held against that of a law that can be enumerated.

Two networks are called x_0 predictors (`tokens.denoiser`); the wrong declaration gives samples that look plausible and
have another law. The figure is KL(exact || denoiser) a token over the same for the best posterior of single tokens,
p_j ~ p(j) q(z | j): 1 is as good as knowing frequencies only, 0 is exact.
"""

from __future__ import annotations

from typing import Any, get_args

import torch
from torch import Tensor

from oneprior.check import Checked, Row, _verdict
from oneprior.exact import TokenLaw
from oneprior.tokens import Coins, MatrixCorruption, TokenDenoiser, categorical
from oneprior.tokens.denoiser import Convention

TIMES, BAR = (0.1, 0.3, 0.5, 0.7, 0.9), 0.05


@torch.no_grad()
def check_tokens(den: TokenDenoiser, law: TokenLaw, *, seed: int = 0, strict: bool = True, **cond: Any) -> Checked:
    """Is `den` the posterior of `law` under its corruption, as its convention says? 256 draws of x_t at five times.

    Raises:
        ValueError: with the table, and the convention that fits if one does, when it fails (unless `strict=False`).
        TypeError: for a guided or truncated denoiser, which is no posterior of a law.

    Example:
        >>> check_tokens(TokenDenoiser(net, Uniform(4), "loo"), TokenLaw(table))
    """
    if not isinstance(den, TokenDenoiser):
        raise TypeError(f"a {type(den).__name__} is no posterior of a law: check the TokenDenoiser that it holds")
    c = den.corruption
    if law.symbols != c.vocab - (c.mask is not None):
        raise ValueError(f"a law of {law.symbols} symbols does not go with {c}, the mask counted as one symbol more")
    n = len(c.steps) if isinstance(c, MatrixCorruption) else 0
    times = [max(1, round(t * n)) / n if n else t for t in TIMES]
    coins = Coins(range(seed, seed + 256))
    x0 = law.sequences[categorical(law.table.flatten(), coins(0, "law", ()))]
    found: dict[str, list[float]] = {}
    for name in get_args(Convention):
        tried = TokenDenoiser(den.net, c, name, timed=den.timed, facts=den.facts)
        found[name] = [_error(tried, law, x0, t, coins(1, "check", (law.length,)), cond) for t in times]
    rows = tuple(Row(f"error at t = {t:.3g}", f, BAR) for t, f in zip(times, found[den.convention], strict=True))
    advice = ""
    if not all(r.holds for r in rows):
        worst = {name: max(figures) for name, figures in found.items()}
        table = ", ".join(f"as {name} {figure:.2g}" for name, figure in worst.items())
        best = min(worst, key=lambda k: worst[k])
        fits = best != den.convention and worst[best] <= BAR
        advice = f"{table}: did you mean convention='{best}'?" if fits else f"{table}: neither fits. Is it trained?"
    return _verdict(Checked(f"check_tokens({den.convention}, {type(c).__name__})", rows, advice), strict)


def _error(den: TokenDenoiser, law: TokenLaw, x0: Tensor, t: float, u: Tensor, cond: dict[str, Any]) -> float:
    c = den.corruption
    z = c.corrupt(x0, t, u)
    exact = law.posterior(c.likelihood(z, t))
    alone = torch.zeros_like(exact)
    for i in range(law.length):
        alone[:, i, : law.symbols] = law.table.sum([k for k in range(law.length) if k != i])
    known = c.from_loo(alone, z, t).clamp(min=1e-300).log()
    ours, theirs = (
        float(torch.where(exact > 0, exact * (exact.log() - v), 0).sum(-1).mean()) for v in (den(z, t, **cond), known)
    )
    return ours / max(theirs, 0.01)
