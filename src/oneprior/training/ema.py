"""Averages of the weights: theta_n <- beta(n) theta_n + (1 - beta(n)) w_n after every step, in float32.

Power profile (Karras et al. 2024, EDM2): weight ~ tau^g on [0, n], beta = (1 - batch / n)^(g + 1). Its relative width
s^2 = (g + 1) / ((g + 2)^2 (g + 3)) does not change as training goes on, so it needs no choice of a time scale. From
snapshots of a few profiles, any other follows afterwards by least squares on the profiles' inner products.
Exponential with warm-up (EDM): half-life min(H, 0.09 n), beta = 0.5^(batch / half-life).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, _foreach_copy_, _foreach_lerp_, nn  # pyright: ignore[reportPrivateImportUsage]

from oneprior.training.files import load_tensors, save_tensors


@lru_cache
def exponent(width: float) -> float:
    """The exponent g of the power profile of a relative width s: largest root of its cubic (.05 gives 16.9722)."""
    if not 0 < width < 0.28:
        raise ValueError(f"width={width}: a relative width lies in (0, 0.28), such as 0.05 or 0.10")
    w = width**-2
    return float(np.roots([1, 7, 16 - w, 12 - w]).real.max())


class Profile(Protocol):
    @property
    def name(self) -> str: ...
    def beta(self, n: int, batch: int) -> float: ...


@dataclass(frozen=True)
class Power:
    """Average of relative width `width`."""

    width: float = 0.10

    @property
    def name(self) -> str:
        return f"{self.width:.3f}"

    def beta(self, n: int, batch: int) -> float:
        return max(0.0, 1 - batch / n) ** (exponent(self.width) + 1)


@dataclass(frozen=True)
class HalfLife:
    """Exponential average of half-life `samples`, shorter at first: at most `ratio` of the samples seen."""

    samples: int
    ratio: float = 0.09

    @property
    def name(self) -> str:
        return f"halflife-{self.samples}"

    def beta(self, n: int, batch: int) -> float:
        return 0.5 ** (batch / min(self.samples, self.ratio * n))


class Averages:
    """Averages of a module's parameters under several profiles; buffers are copied, not averaged.

    Example:
        >>> averages = Averages(den, [Power(0.05), Power(0.10)])
        >>> averages.update(n=256, batch=128)          # after each optimiser step
        >>> with averages.applied("0.100"): preview(den)
    """

    def __init__(self, module: nn.Module, profiles: Sequence[Profile]) -> None:
        self.module, self.profiles = module, {p.name: p for p in profiles}
        self._names = list(dict(module.named_parameters()))
        self._live = [p.detach() for p in module.parameters()]  # shares memory with the parameters
        self._kept = {name: [p.float().clone() for p in self._live] for name in self.profiles}

    def update(self, n: int, batch: int) -> None:
        """Take in the weights after n samples, `batch` of them since the last call."""
        live = [p.float() for p in self._live]
        for name, profile in self.profiles.items():
            _foreach_lerp_(self._kept[name], live, 1 - profile.beta(n, batch))

    def state(self, name: str) -> dict[str, Tensor]:
        """A state dict of the module with its parameters averaged under profile `name`."""
        kept = self._kept[self._known(name)]
        by_memory = {p.data_ptr(): a for p, a in zip(self._live, kept, strict=True)}
        tied = {k: by_memory[p.data_ptr()] for k, p in self.module.named_parameters(remove_duplicate=False)}
        return {k: tied[k] if k in tied else v.detach() for k, v in self.module.state_dict().items()}

    def load(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Continue profile `name` from a state dict made by `state`."""
        for key, mine in zip(self._names, self._kept[self._known(name)], strict=True):
            mine.copy_(tensors[key])

    @contextmanager
    def applied(self, name: str | None = None) -> Iterator[nn.Module]:
        """The module with averaged weights (of the last profile unless named) in eval mode; the live ones come back."""
        kept = self._kept[self._known(name or list(self.profiles)[-1])]
        live, mode = [p.clone() for p in self._live], self.module.training
        try:
            _foreach_copy_(self._live, kept)
            self.module.eval()
            yield self.module
        finally:
            _foreach_copy_(self._live, live)
            self.module.train(mode)

    def snapshot(self, folder: Path, n: int) -> None:
        """Write every power average to `folder`, for `rebuild`."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, profile in self.profiles.items():
            if isinstance(profile, Power):
                meta = {"n": str(n), "width": repr(profile.width)}
                save_tensors(folder / f"{name}-{n:012d}.safetensors", self.state(name), meta)

    def _known(self, name: str) -> str:
        if name not in self.profiles:
            raise KeyError(f"no average is named {name!r}; kept here: {', '.join(self.profiles) or 'none'}")
        return name


def inner(na: ArrayLike, ga: ArrayLike, nb: ArrayLike, gb: ArrayLike) -> np.ndarray:
    """Inner product of two unit-mass profiles tau^ga on [0, na] and tau^gb on [0, nb], float64, broadcast."""
    na, ga, nb, gb = (np.asarray(v, np.float64) for v in (na, ga, nb, gb))
    q = np.where(na < nb, gb, -ga)
    return (ga + 1) * (gb + 1) * (na / nb) ** q / ((ga + gb + 1) * np.maximum(na, nb))


def weights(at: Sequence[float], widths: Sequence[float], n: float, width: float) -> np.ndarray:
    """Coefficients, summing to one, of the snapshots (at[i], widths[i]) that come nearest to profile (n, width)."""
    scale = np.asarray(at, np.float64) / n  # only ratios matter; this keeps the matrix near one
    g = np.array([exponent(w) for w in widths])
    gram = inner(scale[:, None], g[:, None], scale[None, :], g[None, :])
    x = np.linalg.lstsq(gram, inner(scale, g, 1.0, exponent(width)), rcond=1e-13)[0]
    return x / x.sum()


Snapshot = tuple[int, float, Mapping[str, Tensor]]


def rebuild(snapshots: str | Path | Iterable[Snapshot], width: float, n: int | None = None) -> dict[str, Tensor]:
    """The average of any relative width, from snapshots of a few: after training, without training again.

    Args:
        snapshots: a folder written by `Averages.snapshot`, or triples (n, width, state dict).
        width: the relative width wanted; best inside or near the widths kept.
        n: samples seen at its end; the last snapshot's unless given.

    Raises:
        ValueError: when there is no snapshot up to n, or one is damaged.
    """
    found = list(_read(Path(snapshots))) if isinstance(snapshots, str | Path) else list(snapshots)
    end = n if n is not None else max((s[0] for s in found), default=0)
    used = [s for s in found if s[0] <= end]
    if not used:
        raise ValueError(f"no snapshot of an average up to n={end} in {snapshots}: train with snapshot_every=...")
    x = weights([s[0] for s in used], [s[1] for s in used], end, width)
    out: dict[str, Tensor] = {}
    for key, last in max(used, key=lambda s: s[0])[2].items():
        if not last.is_floating_point():
            out[key] = last
            continue
        total = torch.zeros(last.shape, dtype=torch.float64)
        for c, (_, _, tensors) in zip(x, used, strict=True):
            total += float(c) * tensors[key].double().cpu()
        out[key] = total.to(last.dtype)
    return out


def _read(folder: Path) -> Iterator[Snapshot]:
    for path in sorted(folder.glob("*.safetensors")):
        tensors, meta = load_tensors(path)
        yield int(meta["n"]), float(meta["width"]), tensors
