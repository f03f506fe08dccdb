"""Reproductions of discrete diffusion in seconds: what is exact holds, what needs training is shown."""

import pytest
import torch

from oneprior.data import digits
from oneprior.reproductions import Check, Record, reproduce
from oneprior.reproductions._token_digits import CODEC, LEVELS, L, Tokens, histogram_nats, tokens
from oneprior.reproductions.vq_diffusion import entropy


def figures(name: str) -> tuple[Record, dict[tuple[str, str], Check]]:
    found = reproduce(name, "quick")
    every = {(c.what, c.bar): c for c in found.checks}
    assert len(every) == len(found.checks), "two figures of one name"
    assert all(c.holds for c in found.checks if c.kind == "control"), found.why
    return found, every


def test_vq_ddm() -> None:
    found, every = figures("vq-ddm")
    assert every["weights of the encoder as they were", "= 1"].holds
    assert every["a pair that agrees, held under masks: the second is right", "= 1"].measured == 1
    after = [c for (what, _), c in every.items() if what.startswith("squared error") or what.startswith("error of")]
    assert len(after) == 13 and all(0 < c.measured < 1 for c in after)
    assert {c.kind for c in found.checks} == {"control", "uncalibrated"}


def test_masked_first_hitting() -> None:
    found, every = figures("masked-first-hitting")
    assert every["network calls of first hitting", f"= {L} tokens"].measured == L
    assert every["bound in masks less that over time", "< 3 standard errors"].holds, found.why
    assert found.verdict == "yes", found.why


def test_vq_diffusion() -> None:
    _, every = figures("vq-diffusion")
    assert every["wrong pixels mended, masks alone", "= 0"].measured == 0
    assert every["right pixels kept, masks alone", "= 1"].measured == 1


def test_what_they_share() -> None:
    x, label = tokens("test")
    assert torch.equal(CODEC.decode(x), digits("test").batch(range(len(x)))["x"]) and x.shape == (len(label), L)
    fair = torch.arange(LEVELS).repeat_interleave(4)[:, None].expand(-1, L)
    assert histogram_nats(fair, fair, 0.0) == pytest.approx(torch.log(torch.tensor(17.0)).item(), abs=1e-6)
    assert histogram_nats(x[:1], x[:1], 1e-9) < 1e-6 < entropy(x, label) < 2.9
    assert torch.equal(Tokens(x).batch([3, 1])["x"], x[[3, 1]])
