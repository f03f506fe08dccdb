"""A fair table: what its figures mean where the answer is known, equal calls, and a stranger's function."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers import Normal, draw
from oneprior.codecs import Standardise
from oneprior.denoiser import Denoiser, Wrapper
from oneprior.operators import Mask, Measurement, Pool
from oneprior.operators.simulate import simulate
from oneprior.schedules import Cosine
from oneprior.uses.restore import compare, summary
from oneprior.uses.restore.comparison import METRICS, coverage, measures, wiener
from oneprior.uses.restore.table import bibtex, cells, latex, markdown

D = 16


def law() -> tuple[Tensor, Tensor]:
    """Of pictures (1, 4, 4): mean and covariance in the user's units, around the middle of [0, 1]."""
    i = torch.arange(D, dtype=torch.float64)
    return torch.full((D,), 0.5, dtype=torch.float64), 0.01 * 0.9 ** (i[:, None] - i).abs()


def pictures(n: int, seed: int = 0) -> Tensor:
    m, S = law()
    return (m + draw(n, D, seed=seed) @ torch.linalg.cholesky(S).mT).reshape(n, 1, 4, 4)


@pytest.fixture(scope="module")
def den() -> Normal:
    m, S = law()
    return Normal((m - 0.5) / 0.1, S / 0.01, Cosine())


CODEC: Any = Standardise(0.5, 0.1)
HALF = {"half": (Mask.half((1, 4, 4)), 0.05)}


def posterior(y: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    m, S = law()
    seen = HALF["half"][0].mask.reshape(-1).double()
    A = torch.diag(seen)[seen > 0]
    gain = S @ A.mT @ torch.linalg.inv(A @ S @ A.mT + noise**2 * torch.eye(len(A), dtype=torch.float64))
    return m + gain @ (A @ (y.reshape(-1) - m)), S - gain @ A @ S


def test_coverage_is_exact_for_draws_of_one_law() -> None:
    """Whatever the number of draws: over 40,000 elements, within four standard errors."""
    for n in (2, 3, 8, 20):
        z = draw(n + 1, 40_000, seed=n).exp()
        for p in (0.5, 0.9):
            assert abs(coverage(z[1:], z[0], p) - p) < 4 * (p * (1 - p) / 40_000) ** 0.5
    wide, narrow = 3 * draw(8, 40_000, seed=1), 0.3 * draw(8, 40_000, seed=2)
    x = draw(40_000, seed=3)
    assert coverage(wide, x, 0.5) > 0.7 and coverage(narrow, x, 0.5) < 0.3


def test_figures_of_exact_draws() -> None:
    """Draws of the exact posterior: residual 1, covered as nominal, and 3 dB between a draw and the mean."""
    rows, x, n = [], pictures(150), 19
    for i in range(len(x)):
        seen = Measurement(simulate(HALF["half"][0], x[i : i + 1], 0.05, 0, [i]), *HALF["half"])
        m, C = posterior(seen.y, 0.05)
        z = m + draw(n, D, seed=1000 + i) @ torch.linalg.cholesky(C).mT
        rows.append(measures(z.reshape(n, 1, 4, 4), x[i], seen))
    mean = {k: np.array([r[k] for r in rows]) for k in rows[0]}
    for k, v in (("cover50", 0.5), ("cover90", 0.9)):
        assert abs(mean[k].mean() - v) < 4 * mean[k].std() / len(x) ** 0.5
    square = mean["residual"].mean()  # of a root mean square over 8 pixels: below 1 by about 1 / 32
    assert 0.93 < square < 1.01
    gap = (mean["psnr_mean"] - mean["psnr_draw"]).mean()
    assert abs(gap - 10 * np.log10(2 / (1 + 1 / n))) < 0.35


def test_the_wiener_filter_is_the_posterior_mean_of_a_gaussian() -> None:
    x, train = pictures(1, seed=5), pictures(200_000, seed=6)
    seen = Measurement(simulate(HALF["half"][0], x, 0.05, 0, [0]), *HALF["half"])
    torch.testing.assert_close(wiener(seen, train).reshape(-1), posterior(seen.y, 0.05)[0], atol=2e-3, rtol=0)


def exact(den: Any, measurement: Measurement, *, start: Tensor, calls: int, seeds: list[int]) -> Tensor:
    """A stranger's method that knows the law: draws of the exact posterior, in model range."""
    assert len(start) == len(measurement.y) == len(seeds)
    den(start, 1.0)
    y = 0.5 + 0.1 * measurement.y[:1]
    m, C = posterior(y * HALF["half"][0].mask, 0.05)
    z = m + start.reshape(-1, D).double() @ torch.linalg.cholesky(C).mT
    return ((z - 0.5) / 0.1).reshape(start.shape)


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> str:
    module: Any = ModuleType("a_stranger")
    module.exact, module.number = exact, 3
    module.flat = lambda den, measurement, *, start, calls, seeds: start[0]
    exact.bibtex = "@misc{exact, year = {2026}}"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_stranger", module)
    return "a_stranger:exact"


def test_rows(den: Normal, theirs: str) -> None:
    x, methods = pictures(3), ["ddrm", "twisted", theirs]
    made = dict(codec=CODEC, train=pictures(500, seed=9), draws=4, calls=40)
    got = list(compare(den, x, HALF, methods, **made))  # type: ignore[arg-type]
    rows = [row for row, _ in got]
    assert [(r["method"], r["image"]) for r in rows] == [(m, i) for m in (*methods, "pinv", "wiener") for i in range(3)]
    assert all(set(METRICS) <= r.keys() for r in rows) and got[0][1].shape == (1, 4, 4)
    calls = {r["method"]: (r["calls"], r["steps"]) for r in rows}
    assert calls["ddrm"] == (40, 40) and calls["twisted"] == (32, 2)  # 16 particles
    assert calls[theirs] == (1, 0) and calls["pinv"] == (0, 0)
    assert all((r["cover50"] is None) == (r["method"] in ("pinv", "wiener")) for r in rows)
    part = [r for r, _ in compare(den, x, HALF, methods, done={("half", "ddrm", 0)}, **made)]  # type: ignore[arg-type]
    drop = lambda rows: [{k: v for k, v in r.items() if k != "seconds"} for r in rows]  # noqa: E731
    assert drop(part) == drop(rows[1:])  # the rest is the same to the last bit


class Recorded(Wrapper):
    """Keeps what the network is asked about first."""

    def __init__(self, inner: Denoiser) -> None:
        super().__init__(inner)
        self.first: list[Tensor] = []

    def posterior(self, x: Tensor, t: Any, **cond: Any) -> Any:
        self.first.append(x.detach().clone())
        return self.inner.posterior(x, t)

    def around(self, inner: Denoiser) -> Denoiser:
        return self


def test_all_methods_start_from_the_same_noise(den: Normal, theirs: str) -> None:
    firsts = []
    for method in ("ddrm", "dps", "mmps", theirs):
        seen = Recorded(den)
        next(compare(seen, pictures(1), HALF, [method], codec=CODEC, draws=3, calls=4))
        firsts.append(next(x for x in seen.first if len(x) == 3))  # after trials on one sample
    for x in firsts[1:]:
        torch.testing.assert_close(x.double(), firsts[0].double(), atol=1e-4, rtol=0)


def test_refused(den: Normal, theirs: str) -> None:
    x = pictures(1)
    pool = {"pool": (Pool(2), 0.05)}
    for methods, scenes, error, said in (
        (["dpss"], HALF, ValueError, "method 'dpss' is not known; one of mmps"),
        (["repaint"], pool, ValueError, "repaint is for a Mask"),
        (["nowhere:fn"], HALF, ValueError, "nowhere:fn: No module named 'nowhere'"),
        (["a_stranger:gone"], HALF, ValueError, "has no attribute 'gone'"),
        (["a_stranger:number"], HALF, ValueError, "is a int, no function"),
        (["a_stranger:flat"], HALF, TypeError, r"returned \(1, 4, 4\); draws of shape \(2, 1, 4, 4\)"),
    ):
        with pytest.raises(error, match=said):
            next(compare(den, x, scenes, methods, codec=CODEC, draws=2, calls=4))


def test_paired_intervals() -> None:
    """Two methods that differ by 1 +- 0.1 dB on pictures that differ by 5: the difference is known, the figures not."""
    g = np.random.default_rng(0)
    base, rows = g.normal(25, 5, 40), []
    for method, off in (("a", 0 * base), ("b", g.normal(1, 0.1, 40))):
        for i in range(40):
            own = {"operator": "o", "method": method, "image": i, **dict.fromkeys(METRICS, 1.0)}
            rows.append({**own, "psnr_mean": base[i] + off[i], "residual": None})
    one, two = summary(rows)
    mean, low, high = two["against"]
    assert abs(mean - 1) < 0.06 and 0.04 < high - low < 0.1 and two["psnr"][2] - two["psnr"][1] > 1.5
    assert one["against"] == [0.0, 0.0, 0.0] and one["residual"] is None
    assert summary(rows, "b")[0]["against"][0] == pytest.approx(-mean)


def test_tables(theirs: str) -> None:
    figures: dict[str, Any] = {**dict.fromkeys(METRICS, 0.5), "residual": None}
    rows = [
        {"operator": "mask:half", "method": "red_diff", **figures, "psnr": [1.0, 0.5, 1.5], "against": [np.nan] * 3}
    ]
    heads, row = cells(rows)
    assert row == ["mask:half", "red_diff", "0.50", "1.00 [0.50, 1.50]", "", "0.500", "", "0.50", "0.50", "0.500", "0"]
    assert markdown(rows).count("\n") == 3 and len(heads) == len(row)
    assert r"red\_diff & 0.50" in latex(rows) and r"in 50 \%" in latex(rows) and latex(rows).count(r"\\") == 2
    references = bibtex(["mmps", "pinv", theirs], lambda name: exact)
    assert references.count("@") == 2 and "Rozet" in references and "@misc{exact" in references


def test_every_method_has_a_reference() -> None:
    from oneprior.uses.restore import METHODS

    assert all(bibtex([m], lambda _: None).startswith("@") for m in METHODS)
    assert Path(sys.modules[bibtex.__module__].__file__ or "").with_name("references.bib").is_file()
