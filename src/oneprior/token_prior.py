"""The prior of token data: text, or codes of pictures. The same verbs; what is held or drawn is tokens.

prior = oneprior.load("kjv")
prior.sample(4, prompt="In the beginning [32] light", seeds=range(4)).texts
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from oneprior.codecs import Text
from oneprior.conditions import Conditions
from oneprior.paths import Hold
from oneprior.prior import Prior
from oneprior.results import Likelihood, Restored, Result, unwrap
from oneprior.tokens import CFG, Absorbing, Coins, Temperature, TokenDenoiser, TokenModel, TokenSampler, TopP
from oneprior.tokens.named import sampler as named
from oneprior.training.files import write_json, write_text
from oneprior.uses.tokens import nats, prompted


@dataclass(frozen=True)
class Texts(Result):
    """x: tokens (B, L); texts: what they say."""

    texts: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n\n".join(self.texts)

    def save(self, folder: str | Path) -> Path:
        """Write every text (.txt, named by seed) and result.json."""
        folder = Path(folder)
        for seed, text in zip(self.seeds, self.texts, strict=True):
            write_text(folder / f"{seed:06d}.txt", text)
        write_json(folder / "result.json", self.record())
        return folder


class TokenPrior(Prior):
    """A prior over tokens (L,): codec a tokeniser (`Text`), or one of pictures to tokens (`VQ`, `Levels`)."""

    den: TokenDenoiser  # type: ignore[assignment]
    codec: Any

    def __init__(self, den: TokenDenoiser, codec: Any, conditions: Conditions, facts: Mapping[str, Any]) -> None:
        super().__init__(den, codec, conditions, facts)  # type: ignore[arg-type]

    def sample(  # type: ignore[override]
        self,
        n: int | None = None,
        *,
        seeds: Sequence[int] | None = None,
        prompt: str | None = None,
        length: int | None = None,
        steps: int | None = None,
        sampler: str | TokenSampler = "auto",
        guidance: float = 1.0,
        temperature: float = 1.0,
        top_p: float = 1.0,
        hold: Hold | None = None,
        batch: int = 64,
        **cond: Any,
    ) -> Result:
        """Draw n samples (8, or as many as there are seeds): `Texts`, or pictures. Sample i depends on seeds[i] alone.

        prompt: text with holes, `uses.tokens.prompted`. length: in tokens, at most the context it was trained with.
        steps: network calls; none: as many as exactness takes. sampler: a name of `tokens.named.SAMPLERS`, "auto", or
        one of `oneprior.tokens`. guidance: scale, 1 none. temperature, top_p: of the law of each token, 1 plain.
        hold: tokens to keep, `Hold(value, mask)`. cond: by the names of the prior's conditions.

        Raises:
            ValueError: for an empty prompt, one longer than the context, a length beyond it, or a sampler that is not
                known or is for another corruption.
        """
        seeds = self._seeds(n, seeds)
        L = self.shape[0] if length is None else length
        self._fits(L)
        if prompt is not None:
            if not isinstance(self.codec, Text) or hold is not None:
                raise ValueError("a prompt is for a prior of text, and instead of hold")
            hold = prompted(self.codec, prompt, L)
            L = len(hold.value)
        free = L
        if hold is not None:
            try:
                rows = [torch.as_tensor(v).expand(len(seeds), L) for v in (hold.value, hold.mask)]
            except RuntimeError as e:
                raise ValueError(f"what is held does not fit {len(seeds)} samples of {L} tokens: {e}") from e
            hold, free = Hold(rows[0], rows[1], hold.time, hold.clamp), int((~rows[1].bool()).sum(-1).max())
        said = {"prompt": prompt, "length": L}
        how: dict[str, Any] = {"guidance": guidance, "temperature": temperature, "top_p": top_p, "batch": batch, **cond}
        return self._drawn(seeds, L, free, said, hold, steps=steps, sampler=sampler, **how)

    def edit(  # type: ignore[override]
        self,
        x: Any,
        *,
        strength: float = 0.5,
        span: tuple[int, int] | None = None,
        seeds: Sequence[int] | None = None,
        **how: Any,
    ) -> Result:
        """Draw a part of x anew: of texts of one length, tokens (B, L) or pictures.

        span: places [first, last) to fill given all the others. Without one x is corrupted up to the time `strength`
        in (0, 1], a share of about as many tokens under masks, and denoised: SDEdit for tokens. how: as of
        `sample`; conditions say what it is to become.
        """
        m = self.codec.encode(unwrap(x)).to(self.device)
        seeds, L, c, hold = self._seeds(len(m), seeds), m.shape[1], self.den.corruption, None
        self._fits(L)
        if not 0 < strength <= 1 or (span is not None and not 0 <= span[0] < span[1] <= L):
            raise ValueError(
                f"strength = {strength}, span = {span}: one in (0, 1], and places in 0 .. {L} were expected"
            )
        if span is not None:
            given = torch.ones(m.shape, dtype=torch.bool, device=m.device)
            given[:, slice(*span)] = False
            hold, free, start = self._known(m, given), span[1] - span[0], None
        else:
            start = c.corrupt(m, strength, Coins(seeds)(0, "edit", (L,)).to(m.device))
            free = int((start == c.mask).sum(1).max()) if isinstance(c, Absorbing) else L
        return self._drawn(seeds, L, free, {"strength": strength, "span": span}, hold, start, strength, **how)

    def fill(
        self,
        x: Any,
        hole: Tensor,
        *,
        reach: int = 1,
        paste: bool = True,
        seeds: Sequence[int] | None = None,
        **how: Any,
    ) -> Result:
        """Draw what pictures x (B, C, H, W) lack where `hole`, bool (H, W) or (B, 1, H, W), is true, given the rest.

        The hole is filled with the mean of what is seen before x becomes tokens; those it touches, and `reach` around
        them, as an encoder sees further than its token, are drawn anew. No mask was seen in training. paste: pixels
        that were seen come back as they came, else as the codec gives them. how: as of `sample`.

            >>> prior.fill(x, hole, text="red apple").x

        Raises:
            ValueError: for a prior of text, a hole of another shape, or one that hides nothing.
        """
        if isinstance(self.codec, Text):
            raise ValueError("text has no pixels: give sample a prompt with holes, or edit a span")
        x, hole = unwrap(x), torch.as_tensor(hole).bool()
        if hole.shape[-2:] != x.shape[-2:] or hole.ndim not in (2, 3, 4) or not bool(hole.any()):
            raise ValueError(
                f"a hole for pictures {tuple(x.shape)} was expected; {tuple(hole.shape)} of {hole.sum()} came"
            )
        hole = hole.to(x.device).expand(len(x), 1, *x.shape[2:])
        seen = (~hole).sum((2, 3), keepdim=True).clamp(min=1)
        mean = x.masked_fill(hole, 0).sum((2, 3), keepdim=True) / seen
        m = self.codec.encode(torch.where(hole, mean, x)).to(self.device)
        gone = self.codec.hidden(hole, reach).to(self.device)
        seeds, free = self._seeds(len(m), seeds), int(gone.sum(1).max())
        said = {"reach": reach, "paste": paste}
        out = self._drawn(seeds, m.shape[1], free, said, self._known(m, ~gone), **how)
        return replace(out, x=torch.where(hole, out.x.to(x), x)) if paste else out

    def _encode(self, x: Any) -> Tensor:
        return self.codec.encode(unwrap(x)).to(self.device)

    def _known(self, m: Tensor, given: Tensor) -> Hold:
        """Tokens kept; where they may be replaced and the network knows one time, noised anew at every step."""
        clamp = not isinstance(self.den.corruption, Absorbing) and not self.den.facts.time_axes
        return Hold(m, given, clamp=clamp)

    def _drawn(
        self,
        seeds: tuple[int, ...],
        length: int,
        free: int,
        said: dict[str, Any],
        hold: Hold | None = None,
        start: Tensor | None = None,
        time: float = 1.0,
        /,
        *,
        steps: int | None = None,
        sampler: str | TokenSampler = "auto",
        guidance: float = 1.0,
        temperature: float = 1.0,
        top_p: float = 1.0,
        batch: int = 64,
        **cond: Any,
    ) -> Result:
        """free: tokens to draw, at most; time: of `start`."""
        chosen, den = named(sampler, self.den, free, steps), _shaped(self.den, guidance, temperature, top_p)
        shape = {"guidance": guidance, "temperature": temperature, "top_p": top_p}
        said = {"sampler": str(chosen), "steps": steps, **said, **{k: v for k, v in shape.items() if v != 1}, **cond}
        with self._timed() as run:
            ports: dict[str, Any] = self._ports(len(seeds), cond)
            drawn = []
            for s in (slice(i, i + batch) for i in range(0, len(seeds), batch)):
                own = {k: v[s] for k, v in ports.items()}
                if start is not None:
                    own |= {"start": start[s], "time": time}
                held = None if hold is None else hold.part(s)
                drawn.append(chosen(den, (len(seeds[s]), length), seeds=seeds[s], hold=held, **own))
        return self._result(torch.cat(drawn), seeds, said, run.calls, run.seconds)

    def _fits(self, length: int) -> None:
        if not 1 <= length <= self.shape[0] or (not isinstance(self.codec, Text) and self.shape[0] != length):
            raise ValueError(f"{length} tokens: this prior has a context of {self.shape[0]}")

    def restore(self, *_: Any, **__: Any) -> Restored:
        raise ValueError(
            "a prior of tokens has no restore: hold what is known, sample(prompt=...) or (hold=...), or fill(x, hole)"
        )

    def tune(self, *_: Any, **__: Any) -> Prior:
        raise ValueError("a prior of tokens has no grid to tune; steps and sampler of sample(...) are its settings")

    def likelihood(self, x: Any, *, draws: int = 8, seed: int = 0, **cond: Any) -> Likelihood:  # type: ignore[override]
        """A lower bound on log p(x) in nats, (B,), of texts of one length, tokens or pictures; bpd: bits a token.

        draws: levels of corruption, stratified; sample i's numbers depend on seed + i.
        """
        m = self.codec.encode(unwrap(x)).to(self.device)
        with self._timed() as run:
            ports: dict[str, Any] = self._ports(len(m), cond)
            out = nats(self.den, m, draws, range(seed, seed + len(m)), **ports).mean(1)
        bits = out / m.shape[1] / 0.6931471805599453
        return Likelihood(-out, (seed,), {"draws": draws, "seed": seed, **cond}, run.calls, run.seconds, bits)

    @contextmanager
    def _timed(self) -> Iterator[Any]:
        run, began = SimpleNamespace(calls=0, seconds=0.0), time.perf_counter()

        def count(*_: Any) -> None:
            run.calls += 1

        hook = self.den.net.register_forward_hook(count)
        try:
            yield run
        finally:
            hook.remove()
            run.seconds = time.perf_counter() - began

    def _result(self, m: Tensor, seeds: Sequence[int], settings: dict[str, Any], calls: int, seconds: float) -> Result:
        if isinstance(self.codec, Text):
            return Texts(m, tuple(seeds), settings, calls, seconds, tuple(self.codec.decode(m)))
        return Result(self.codec.decode(m), tuple(seeds), settings, calls, seconds)


def _shaped(den: TokenModel, guidance: float, temperature: float, top_p: float) -> TokenModel:
    masks = isinstance(den.corruption, Absorbing)
    if guidance != 1 and masks:
        den = CFG(den, guidance)
    if temperature != 1:
        den = Temperature(den, temperature)
    if top_p != 1:
        den = TopP(den, top_p)
    return CFG(den, guidance) if guidance != 1 and not masks else den  # this mixes steps, and stands outside
