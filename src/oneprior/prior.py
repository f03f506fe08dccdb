"""A prior is what you keep: a denoiser, the codec that joins its world to yours, its conditions and its facts.

    prior = oneprior.load("digits")
    prior.sample(16, label=7, seeds=range(16)).grid()

Its verbs are the uses. Each is a few lines over a function in `oneprior.uses` that takes any denoiser: a convenience,
never a gate. Tensors here are in the user's units (pictures in [0, 1]); every verb takes a result where it takes a
tensor, and returns a result whose first field is `.x`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from oneprior import hub, storage
from oneprior.clips import Clips
from oneprior.codecs import Codec, Latent, Pixels
from oneprior.conditions import Conditions, Label
from oneprior.denoiser import Counted, Denoiser
from oneprior.film import Frames, Sampled, Trace
from oneprior.guidance.cfg import Guidance, guided
from oneprior.guidance.tiles import tiled
from oneprior.inside import Inside
from oneprior.operators import Measurement
from oneprior.paths import Hold
from oneprior.paths import Path as TimePath
from oneprior.results import Restored, Result, noises, unwrap, window_of
from oneprior.sampling import Sampler, Solver, sample
from oneprior.sampling import sampler as named
from oneprior.sampling.gridsearch import search
from oneprior.uses.edit import translate
from oneprior.uses.restore import restore
from oneprior.uses.restore.paired import asked, paired
from oneprior.uses.restore.run import paired_off, spread

TELLING = "train one with --variance, or measure it on data with oneprior.sampling.variance.with_variance"


class Prior(Inside, Clips):
    """denoiser + codec + conditions + facts.

    facts: a mapping that JSON can hold; "shape" of one sample is required, "data" and "training" say where it is from.
    """

    def __init__(self, den: Denoiser, codec: Codec, conditions: Conditions, facts: Mapping[str, Any]) -> None:
        self.den, self.codec, self.conditions, self.facts = den.eval(), codec, conditions, dict(facts)
        self.shape: tuple[int, ...] = tuple(facts["shape"])
        self.own: Sampler | None = None  # the sampler a foreign checkpoint came with

    def __repr__(self) -> str:
        size = sum(p.numel() for p in self.den.parameters())
        name = (self.facts.get("data") or {}).get("name", "unnamed")
        said = ", ".join(self.conditions) or "nothing"
        return f"Prior({name}, {'x'.join(map(str, self.shape))}, {size:,} parameters, conditioned on {said})"

    @property
    def device(self) -> torch.device:
        return next((p.device for p in self.den.parameters()), torch.device("cpu"))

    def to(self, device: str | torch.device) -> Prior:
        """Move to a device, in place."""
        for part in (self.den, self.codec, *self.conditions.values()):
            if hasattr(part, "to"):
                part.to(device)  # type: ignore[union-attr]
        return self

    def _inside(self, shape: Sequence[int] | None = None) -> tuple[int, ...]:
        """The shape of a sample, (C, H, W) or the prior's own, in the model's world."""
        shape = self.shape if shape is None else tuple(shape)
        return self.codec.inside(shape) if isinstance(self.codec, Latent) else shape

    def save(self, folder: str | Path, *, force: bool = False, dtype: torch.dtype | None = None) -> Path:
        """Write to a folder that `oneprior.load` reads; see `storage.write`."""
        parts = storage.Parts(self.den, self.codec, self.conditions, self.facts)
        return storage.write(folder, parts, self._preview(), force=force, dtype=dtype)

    def push(self, name: str, *, private: bool = False, dtype: torch.dtype | None = None) -> str:
        """Save to the Hub as user/name, with a card, and return its address; see `hub.push`."""
        named = Prior(self.den, self.codec, self.conditions, {**self.facts, "hub": name})
        with hub.aside() as folder:
            return hub.push(named.save(folder, dtype=dtype), name, private=private)

    def tune(self, steps: int, warm: int = 256) -> Prior:
        """Search the grid on which `auto` takes this many steps and keep it, also when saved: about 20 steps^2 network
        calls of `warm` samples; see `sampling.gridsearch.search`."""
        levels = search(self.den, steps, self._inside(), warm=warm).sbar
        self.den.facts = replace(self.den.facts, grids={**self.den.facts.grids, steps: levels})
        self.facts["grids"] = {**self.facts.get("grids", {}), str(steps): list(levels)}
        return self

    # ---- verbs -------------------------------------------------------------------------------------------------

    def sample(
        self,
        n: int | None = None,
        *,
        seeds: Sequence[int] | None = None,
        steps: int = 20,
        sampler: str | Sampler | Solver = "auto",
        guidance: Guidance = 1.0,
        temperature: float = 1.0,
        hold: Hold | None = None,
        path: TimePath | None = None,
        frames: int | None = None,
        trajectory: int | None = None,
        clip: bool = True,
        batch: int = 256,
        progress: bool = False,
        **cond: Any,
    ) -> Sampled:
        """Draw n samples (8, or as many as there are seeds). Sample i depends on seeds[i] alone, not on the batch.

        sampler: a name of `sampling.SAMPLERS`, a solver, or "own", a foreign checkpoint's, on its own times.
        guidance: scale of classifier-free guidance (1 none), or what makes a denoiser of the prior's, such as
        `lambda den: CFG(den, 3.0, interval=sigma(0.3, 5.0))`. temperature: of the noise of the steps. hold: what to
        keep, in model range. path: times of its own, instead of `steps`. frames: of clips, if not as many as in
        training. trajectory: how many frames of the walk to keep, evenly chosen. clip: pictures to
        [0, 1]. batch: samples a network call. cond: by the names of the prior's conditions, `label=7`.

        Raises:
            ValueError: for a sampler or condition that is not known, steps < 1, guidance of an unconditional prior.
        """
        seeds, sampler = self._seeds(n, seeds), self.own or "own" if sampler == "own" else sampler
        if sampler != "auto" and named(sampler).solver.variance and not getattr(self.den, "variance", False):
            raise ValueError(f"sampler {sampler} asks for the variance, which this prior does not tell: {TELLING}")
        shape = self.shape if frames is None else (frames, *self.shape[1:])
        traces: list[Frames] = []
        with self._timed() as run:
            ports: dict[str, Any] = self._ports(len(seeds), cond)
            den, drawn = guided(run, guidance), []
            for s in (slice(i, i + batch) for i in range(0, len(seeds), batch)):
                trace = None if trajectory is None else Trace(trajectory)
                x = sample(
                    den,
                    (len(seeds[s]), *self._inside(shape)),
                    steps=None if path is not None else steps,
                    path=path,
                    sampler=sampler,
                    seeds=seeds[s],
                    hold=None if hold is None else hold.part(s),
                    temperature=temperature,
                    watch=trace,
                    progress=progress,
                    **{k: v[s] for k, v in ports.items()},
                )
                drawn.append(x)
                traces += [trace.end(x)] if trace else []
        said = str(guidance) if callable(guidance) else guidance
        settings = {"steps": steps, "sampler": str(sampler), "guidance": said, "temperature": temperature, **cond}
        x = self._decode(torch.cat(drawn), clip)
        if not traces:
            return Sampled(x, seeds, settings, run.calls, run.seconds, window=window_of(self.codec))
        noisy, means = (torch.cat(v, 1) for v in list(zip(*traces, strict=True))[1:])
        noisy = self._decode(noisy.flatten(0, 1), False).unflatten(0, noisy.shape[:2])
        means = self._decode(means.flatten(0, 1), clip).unflatten(0, means.shape[:2])
        times = traces[0].times
        return Sampled(x, seeds, settings, run.calls, run.seconds, noisy, means, times, window=window_of(self.codec))

    def restore(
        self,
        measurement: Measurement | Tensor | Result,
        *,
        method: Any = "auto",
        draws: int = 1,
        steps: int | None = None,
        seeds: Sequence[int] | None = None,
        clip: bool = True,
        progress: bool = False,
        **cond: Any,
    ) -> Restored:
        """Draws from p(x | y) for y = A(x) + noise, everything in the user's units: `Measurement(y, operator, noise)`.

        x is the mean over draws. method: "auto" (moment matching where the operator is linear), a name of
        `uses.restore.METHODS` or its settings. seeds: B * draws numbers, the draws of the first measurement first; if
        none, antithetic pairs (`noise.antithetic`). A prior trained on pairs takes y alone, and any sampler as method.
        Larger pictures are restored by windows.
        """
        given = unwrap(measurement)
        y, shape, pair = asked(given, self.conditions)
        free = seeds is None
        seeds = self._seeds(len(y) * draws, seeds)
        seeds = paired_off(seeds, draws) if free else seeds
        how: dict[str, Any] = dict(method=method, draws=draws, steps=steps, seeds=seeds, progress=progress)
        with self._timed() as run:
            how |= self._ports(len(y), {**cond, **pair})
            den = tiled(run, self._inside()[1:], self._inside(shape[1:])[1:])
            out = paired(den, shape, **how) if pair else restore(den, given.to_model(self.codec), **how)
        every = self._decode(out.draws.flatten(0, 1), clip).unflatten(0, (len(y), draws))
        std = spread(every, seeds) if draws > 1 else None
        settings = {"method": str(method), "draws": draws, "steps": steps, **cond}
        settings |= noises(given, self.codec)
        window = window_of(self.codec)
        return Restored(every.mean(1), seeds, settings, run.calls, run.seconds, every, std, y, window=window)

    def edit(
        self,
        x: Any,
        *,
        target: Any,
        source: Any = None,
        method: str = "cycle",
        strength: float = 0.6,
        guidance: float = 1.0,
        steps: int = 50,
        seeds: Sequence[int] | None = None,
        clip: bool = True,
        **settings: Any,
    ) -> Result:
        """Turn x, of condition `source`, into `target`, keeping what it can: noise that explains x is decoded anew.

        target, source: values of the prior's condition, or dicts for several. strength: the time from which on things
        may change, in (0, 1]. method: "cycle" (CycleDiffusion), "ddib", "sdedit". guidance: of the target.
        """
        x = self._encode(x)
        seeds = self._seeds(len(x), seeds)
        with self._timed() as run:
            a, b = (self._ports(len(x), self._said(v)) for v in (source, target))
            den_b = guided(run, guidance)
            m = translate(
                x, run, den_b, method=method, start=strength, steps=steps, seeds=seeds, cond_a=a, cond_b=b, **settings
            )
        said = {
            "method": method,
            "strength": strength,
            "steps": steps,
            "guidance": guidance,
            "source": source,
            "target": target,
        }
        said, x = {**said, **settings}, self._decode(m, clip)
        return Result(x, seeds, said, run.calls, run.seconds, window=window_of(self.codec))

    # ---- the two worlds ----------------------------------------------------------------------------------------

    def _encode(self, x: Any) -> Tensor:
        return self.codec.encode(self._checked(x))

    def _watched(self, run: Any) -> Any:
        return run if isinstance(run, Denoiser) else self.den

    def _checked(self, x: Any) -> Tensor:
        x = unwrap(x)
        if not isinstance(x, Tensor) or tuple(x.shape[1:]) != self.shape:
            got = tuple(x.shape) if hasattr(x, "shape") else type(x).__name__
            raise ValueError(f"a tensor of shape (B, {', '.join(map(str, self.shape))}) was expected; got {got}")
        return x.to(self.device)

    def _decode(self, m: Tensor, clip: bool) -> Tensor:
        return self.codec.decode(m, clip=clip and isinstance(self.codec, (Pixels, Latent)))

    def _ports(self, batch: int, cond: Mapping[str, Any]) -> dict[str, Tensor]:
        return {k: v.to(self.device) for k, v in self.conditions.encode(batch, **cond).items()}

    def _label(self) -> tuple[str, Label]:
        for name, condition in self.conditions.items():
            if isinstance(condition, Label):
                return name, condition
        said = f"; or say which values of {list(self.conditions)}, classes=[...]" if self.conditions else ""
        raise ValueError(
            f"this prior knows no classes: train it with labels (class subfolders) to classify with it{said}"
        )

    def _said(self, value: Any) -> dict[str, Any]:
        if value is None or isinstance(value, Mapping):
            return dict(value or {})
        if len(self.conditions) != 1:
            raise ValueError(f"say which condition is meant: {{name: value}} with a name of {list(self.conditions)}")
        return {next(iter(self.conditions)): value}

    def _seeds(self, n: int | None, seeds: Sequence[int] | None) -> tuple[int, ...]:
        if seeds is None:
            if n is not None and n < 1:
                raise ValueError(f"n = {n}: at least one sample was expected")
            return tuple(secrets.randbits(31) for _ in range(8 if n is None else n))
        if n is not None and len(seeds) != n:
            raise ValueError(f"{len(seeds)} seeds for {n} samples: one seed a sample")
        return tuple(int(s) for s in seeds)

    @contextmanager
    def _timed(self) -> Iterator[Counted]:
        run, began = Counted(self.den), time.perf_counter()
        yield run
        run.seconds = time.perf_counter() - began

    def _preview(self) -> Image.Image | None:
        alone = hasattr(getattr(self.den, "net", None), "config") and "y" not in self.conditions
        alone = alone and not self.facts.get("private")
        if len(self.shape) not in (3, 4) or self.shape[-3] not in (1, 3) or not alone:
            return None
        count = 20 if len(self.shape) == 3 else 4
        cond = {}
        for name in self.conditions:
            if isinstance(label := self.conditions[name], Label):
                cond[name] = [i % len(label.names) for i in range(count)]
        return self.sample(count, seeds=range(count), **cond).grid(10)
