"""A masked language model that transformers saved: its logits, and the bound of the diffusion it is."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_checkpoints import seeded

import oneprior
from oneprior.token_prior import TokenPrior
from oneprior.tokens import masked_bound

transformers = pytest.importorskip("transformers")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "abcxyz")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bert")
    (out / "vocab.txt").write_text("\n".join(WORDS))
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=12,
    )  # fmt: skip
    seeded(lambda: transformers.BertForMaskedLM(config)).save_pretrained(out)
    transformers.BertTokenizer(vocab=str(out / "vocab.txt"), model_max_length=12).save_pretrained(out)
    return out


def both(folder: Path) -> tuple[TokenPrior, Any]:
    prior = oneprior.load(folder)
    assert isinstance(prior, TokenPrior)
    return prior, transformers.BertForMaskedLM.from_pretrained(folder).eval()


def test_logits_and_bound(folder: Path) -> None:
    prior, model = both(folder)
    V, mask = len(WORDS), 4
    theirs = torch.tensor([[5, 9, 4, 4, 11, V - 1], [4, 5, 6, 7, 8, 4]])
    ours = theirs.clone()
    ours[theirs == mask], ours[theirs == V - 1] = V - 1, mask
    with torch.no_grad():
        want = model(input_ids=theirs).logits
        got = prior.den.net(ours)
        logp = prior.den(ours, 0.5)
    keep = [i for i in range(V) if i not in (mask, V - 1)]
    torch.testing.assert_close(got[..., keep], want[..., keep], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got[..., [mask, V - 1]], want[..., [V - 1, mask]], atol=1e-5, rtol=1e-5)
    # the bound: L times the mean over masked places of -log p, the mask itself without mass
    x0 = torch.tensor([[5, 9, 10, 12, 11, mask], [6, 5, 6, 7, 8, 7]])
    plain = want.double().clone()
    plain[..., mask] = -torch.inf
    named = x0.clone()
    named[x0 == mask] = V - 1
    ce = -plain.log_softmax(-1).gather(-1, named[..., None])[..., 0]
    hidden = theirs == mask
    expected = 6 * (ce * hidden).sum(1) / hidden.sum(1)
    torch.testing.assert_close(masked_bound(prior.den, x0, ours), expected, atol=1e-4, rtol=1e-5)
    assert bool((logp[~hidden].exp().max(-1).values > 0.999999).all())


def test_its_verbs(folder: Path) -> None:
    prior, _ = both(folder)
    drawn = prior.sample(2, prompt="a b [3] c", steps=3, seeds=range(2))
    texts = drawn.texts  # type: ignore[attr-defined]
    assert all(t.startswith("a b") and t.endswith("c") for t in texts) and drawn.x.shape == (2, 6)
    assert prior.likelihood(["a b c", "x y z"], draws=2).x.shape == (2,)
    assert prior.edit(drawn, span=(0, 1), seeds=range(2)).x.shape == (2, 6)
    with pytest.raises(ValueError, match="has no restore"):
        prior.restore(drawn)
    with pytest.raises(ValueError, match="holds the mask"):
        prior.codec.encode("a [MASK]")
    with pytest.raises(TypeError, match="is saved"):
        prior.save(folder / "copy")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"auto_map": {"AutoModel": "modeling.LLaDA"}, "architectures": ["LLaDAModelLM"]}, "code of its own"),
        ({"architectures": ["GPT2LMHeadModel"]}, "ForMaskedLM"),
    ],
)
def test_what_is_no_masked_model(folder: Path, change: dict[str, Any], message: str, tmp_path: Path) -> None:
    said = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**said, **change}))
    with pytest.raises(ValueError, match=message):
        oneprior.load(tmp_path)
