"""Several conditions with a scale each: D_u + w1 (D_1 - D_u) + w2 (D_12 - D_1)."""

from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import Simple, draw
from oneprior.guidance import CFG, Several, time
from oneprior.schedules import VP
from oneprior.times import align


def f(x: Tensor, t: Any, *, label: Tensor, vector: Tensor, image: Tensor | None = None, **_: Any) -> Tensor:
    shift = align(label.to(x), x) + vector.sum(1)[:, None] * x + align(label.to(x), x) * vector.mean(1)[:, None]
    return torch.tanh(0.3 * (x + shift + (0.0 if image is None else image)))


NULL = {"label": 0, "vector": torch.zeros(1, 2)}
LABEL, VECTOR = torch.tensor([1, 2, 3]), draw(3, 2, seed=3)


def den() -> Simple:
    return Simple(f, VP(), 0, NULL)


def views(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """D_u, D_label, D_vector, D_both."""
    d, l0, v0 = den(), torch.zeros(3), torch.zeros(3, 2).double()
    ask = lambda label, vector: d(x, 0.4, label=label, vector=vector).mean  # noqa: E731
    return ask(l0, v0), ask(LABEL, v0), ask(l0, VECTOR), ask(LABEL, VECTOR)


@pytest.mark.parametrize("w1", [0.0, 3.0, torch.tensor([0.0, 1.0, 4.0])], ids=str)
@pytest.mark.parametrize("w2", [0.0, 1.5, torch.tensor([2.0, -1.0, 4.0])], ids=str)
def test_the_formula_and_its_order(w1: Any, w2: Any) -> None:
    d, x = den(), draw(3, 4)
    U, L, V, B = views(x)
    a, b = (w[:, None].double() if isinstance(w, Tensor) else w for w in (w1, w2))
    got = Several(d, {"label": w1, "vector": w2})(x, 0.4, label=LABEL, vector=VECTOR).mean
    torch.testing.assert_close(got, U + a * (L - U) + b * (B - L), rtol=1e-12, atol=1e-12)
    other = Several(d, {"vector": w2, "label": w1})(x, 0.4, label=LABEL, vector=VECTOR).mean
    torch.testing.assert_close(other, U + b * (V - U) + a * (B - V), rtol=1e-12, atol=1e-12)
    if not isinstance(w1, Tensor) and not isinstance(w2, Tensor) and w1 != w2:
        assert (got - other).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("w1", "w2", "batch"),
    [(3.0, 2.0, 9), (3.0, 3.0, 6), (1.0, 2.0, 6), (1.0, 1.0, 3), (1.0, 0.0, 6), (torch.ones(3), 1.0, 9)],
    ids=str,
)
def test_a_view_of_no_weight_is_not_asked(w1: Any, w2: Any, batch: int) -> None:
    d = den()
    Several(d, {"label": w1, "vector": w2})(draw(3, 4), 0.4, label=LABEL, vector=VECTOR)
    assert [shape[0] for shape, _ in d.calls] == [batch]


def test_equal_scales_are_plain_guidance_and_one_scale_leaves_the_rest() -> None:
    x = draw(3, 4)
    _, _, V, B = views(x)
    cond = {"label": LABEL, "vector": VECTOR}
    same = Several(den(), {"label": 4.0, "vector": 4.0})(x, 0.4, **cond).mean
    torch.testing.assert_close(same, CFG(den(), 4.0)(x, 0.4, **cond).mean, rtol=1e-12, atol=1e-12)
    one = Several(den(), {"label": 4.0})(x, 0.4, **cond).mean
    torch.testing.assert_close(one, V + 4 * (B - V), rtol=1e-12, atol=1e-12)


def test_negative_and_interval() -> None:
    x, d = draw(3, 4), den()
    cond = {"label": LABEL, "vector": VECTOR}
    N = d(x, 0.4, label=torch.full((3,), 9), vector=torch.zeros(3, 2).double()).mean
    _, L, _, B = views(x)
    got = Several(d, {"label": 2.0, "vector": 3.0}, negative={"label": 9})(x, 0.4, **cond).mean
    torch.testing.assert_close(got, N + 2 * (L - N) + 3 * (B - L), rtol=1e-12, atol=1e-12)
    limited = Several(d, {"label": 2.0, "vector": 3.0}, interval=time(0.5, 1.0))
    assert torch.equal(limited(x, 0.4, **cond).mean, B)


def test_what_is_refused() -> None:
    d, x = den(), draw(3, 4)
    for scales in ({}, {"tokens": 2.0}):
        with pytest.raises(ValueError, match=r"scales of \['label', 'vector'\] were expected, in order; got"):
            Several(d, scales)
    with pytest.raises(ValueError, match=r"\['vector'\] was not given"):
        Several(d, {"label": 2.0, "vector": 3.0})(x, 0.4, label=LABEL)
    with pytest.raises(ValueError, match="scale of 'vector' = nan"):
        Several(d, {"label": 2.0, "vector": float("nan")})
    with pytest.raises(ValueError, match=r"facts\.null is empty"):
        Several(Simple(f, VP()), {"label": 2.0})
