"""A prior of text: what it draws given prompts, what it says of text, what its folder brings back, what it refuses."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import oneprior
from oneprior.codecs import Characters
from oneprior.conditions import Conditions, Label
from oneprior.denoiser import Facts
from oneprior.exact import TokenLaw
from oneprior.nets import TokensConfig, build
from oneprior.paths import Hold
from oneprior.token_prior import TokenPrior
from oneprior.tokens import Absorbing, Confidence, Corruption, Hybrid, TokenDenoiser, Uniform
from oneprior.tokens.named import SAMPLERS
from oneprior.uses.tokens import nats, prompted

LETTERS = Characters(" abcdefgh")
L = 12


def prior_of(corruption: Corruption | None = None, classes: int = 0, spread: float = 0.3) -> Any:
    corruption = corruption or Absorbing(10)
    conditions = Conditions({"label": Label(tuple("xyz"[:classes]))} if classes else {})
    timed = not isinstance(corruption, Absorbing)
    config = TokensConfig((L,), vocab=corruption.vocab, width=16, depth=1, heads=2, timed=timed, **conditions.fields)
    net, g = build(config, 0), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(spread * torch.randn(p.shape, generator=g))
    den = TokenDenoiser(
        net, corruption, "loo" if timed else "posterior", timed=timed, facts=Facts(null=conditions.null)
    )
    return TokenPrior(den, LETTERS, conditions, {"shape": [L], "data": {"name": "letters"}})


@pytest.fixture(scope="module")
def prior() -> Any:
    return prior_of()


def test_a_folder_brings_it_back(prior: Any, tmp_path: Path) -> None:
    want = prior.sample(seeds=range(3))
    folder = prior.save(tmp_path / "p")
    assert "print(prior.sample(4))" in (folder / "README.md").read_text()
    again = oneprior.load(folder)
    assert isinstance(again, TokenPrior) and again.codec == LETTERS and again.den.corruption == Absorbing(10)
    assert torch.equal(again.sample(seeds=range(3)).x, want.x) and not again.den.timed
    for corruption in (Uniform(9), Hybrid(10, 0.2)):
        other = prior_of(corruption, classes=2)
        back = oneprior.load(other.save(tmp_path / type(corruption).__name__))
        assert isinstance(back, TokenPrior) and back.den.corruption == corruption and back.den.convention == "loo"
        how: dict[str, Any] = {"seeds": range(2), "steps": 4, "label": ["x", "y"]}
        assert torch.equal(back.sample(**how).x, other.sample(**how).x)


def test_texts_are_saved_by_seed(prior: Any, tmp_path: Path) -> None:
    drawn = prior.sample(seeds=[3, 8], prompt="a b[4]", temperature=0.8)
    drawn.save(tmp_path)
    assert (tmp_path / "000008.txt").read_text() == drawn.texts[1] and str(drawn) == "\n\n".join(drawn.texts)
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["settings"]["prompt"] == "a b[4]" and record["settings"]["temperature"] == 0.8
    assert record["nfe"] == 4 == drawn.nfe and record["texts"] == list(drawn.texts)


def test_prompts(prior: Any) -> None:
    hold = prompted(LETTERS, "ab[3] c", L)
    assert hold.value.tolist() == [1, 2, 0, 0, 0, 0, 3] and hold.mask.tolist() == [True] * 2 + [False] * 3 + [True] * 2
    assert prompted(LETTERS, "ab", 5).mask.tolist() == [True, True, False, False, False]
    with_brackets = Characters("[]0123 ")
    assert prompted(with_brackets, "\\[2]", 6).mask.tolist() == [True] * 3 + [False] * 3
    assert prompted(with_brackets, "[2][1]0", 6).mask.tolist() == [False] * 3 + [True]
    for text in prior.sample(seeds=range(4), prompt="ab[3] c").texts:
        assert len(text) == 7 and text[:2] == "ab" and text[5:] == " c"
    assert all(t.startswith("dad") and len(t) == 8 for t in prior.sample(seeds=[1, 2], prompt="dad", length=8).texts)
    free = prior.sample(seeds=range(2), prompt="[5]")
    assert free.x.shape == (2, 5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sample_is_its_seeds_own(name: str) -> None:
    prior = prior_of()
    how: dict[str, Any] = {"sampler": name, "steps": 5, "prompt": "ab[6]h"}
    whole = prior.sample(seeds=range(7), **how)
    assert torch.equal(prior.sample(seeds=range(7), batch=3, **how).x, whole.x)
    assert torch.equal(prior.sample(seeds=[4, 1], **how).x, whole.x[[4, 1]])
    assert int(whole.x.max()) < 9 and all(t[:2] + t[-1] == "abh" for t in whole.texts)
    assert 0 < whole.nfe <= 5


def test_calls_and_shapes_of_the_law(prior: Any) -> None:
    assert prior.sample(2).nfe == L and prior.sample(2, steps=5).nfe == 4  # 12 tokens, 3 a call
    cold = prior.sample(seeds=range(3), temperature=0.0, sampler=Confidence(L))
    assert len({*cold.texts}) == 1
    assert {*prior.sample(seeds=range(3), top_p=1e-6, sampler=Confidence(L)).texts} == {*cold.texts}
    assert len({*prior.sample(seeds=range(3)).texts}) == 3
    kept = Hold(LETTERS.encode(["abcdefgh abc"]), torch.arange(L) % 2 == 0)
    assert torch.equal(prior.sample(seeds=range(2), hold=kept).x[:, ::2], kept.value[:, ::2].expand(2, -1))


@pytest.mark.parametrize("corruption", [Absorbing(10), Hybrid(10, 0.2)])
def test_guidance_and_conditions(corruption: Corruption) -> None:
    prior = prior_of(corruption, classes=3)
    how: dict[str, Any] = {"seeds": range(4), "steps": 6, "label": "y"}
    plain = prior.sample(**how)
    assert not torch.equal(prior.sample(**{**how, "label": "z"}).x, plain.x)
    guided = prior.sample(**how, guidance=6.0, top_p=0.9)
    assert not torch.equal(guided.x, plain.x) and guided.settings["guidance"] == 6
    assert torch.equal(prior.sample(**how, guidance=6.0, top_p=0.9, batch=3).x, guided.x)
    with pytest.raises(ValueError, match="guidance needs a conditional prior"):
        prior_of(corruption).sample(2, guidance=2.0)


def test_editing(prior: Any) -> None:
    texts = ["abcdefgh abc", "hhhh aaaa bb"]
    spans = prior.edit(texts, span=(4, 9), seeds=[0, 1])
    assert all(a[:4] + a[9:] == b[:4] + b[9:] for a, b in zip(spans.texts, texts, strict=True))
    assert spans.texts != tuple(texts) and spans.nfe == 5
    many = prior.edit(texts * 100, strength=0.4, seeds=range(200), steps=3)
    x = LETTERS.encode(texts * 100)
    kept = float((many.x == x).double().mean())  # 0.6 stay, others are drawn anew and may come out the same
    assert 0.6 - 4 * math.sqrt(0.24 / x.numel()) < kept < 0.85
    assert torch.equal(prior.edit(texts[1:], strength=0.4, seeds=[1], steps=3).x[0], many.x[1])
    assert prior.edit(prior.sample(2, seeds=[0, 1]), strength=1.0).x.shape == (2, L)
    blank = prior_of(Hybrid(10, 0.2), spread=0.0)  # says 1/9 of every token, whatever the others are
    some = blank.edit(texts * 200, strength=0.1, seeds=range(400), steps=3)
    kept, _, masked = (float(v) for v in blank.den.corruption.levels(torch.tensor(0.1)))
    other = (1 - kept - masked) / 9
    same = kept + other  # what is left is believed as likely as it is true: the time begins there, not at 1
    share = (same**2 + 8 * other**2) / (same + 8 * other) + masked / 9
    assert float((some.x == x.repeat(2, 1)).double().mean()) == pytest.approx(share, abs=4 * math.sqrt(0.25 / 4800))
    tiny = prior.edit(texts, strength=1e-9)
    assert tiny.texts == tuple(texts) and tiny.nfe == 0


class Timeless(nn.Module):
    """The exact posterior under masks, which needs no time."""

    def __init__(self, law: TokenLaw) -> None:
        super().__init__()
        self.inner = law.net(Absorbing(law.symbols + 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, 0.5)


@pytest.mark.parametrize("corruption", [None, Absorbing(4), Uniform(3), Hybrid(4, 0.2)])
def test_the_bound_is_tight_for_the_exact_denoiser(corruption: Corruption | None) -> None:
    law = TokenLaw(torch.rand(3, 3, generator=torch.Generator().manual_seed(3)) + 0.5)
    net = Timeless(law) if corruption is None else law.net(corruption)
    den = TokenDenoiser(net, corruption or Absorbing(4), timed=corruption is not None)
    x = torch.tensor([[0, 2], [1, 1]])
    each = nats(den, x.repeat(500, 1), 8, range(1000)).reshape(500, 2, 8).permute(1, 0, 2).flatten(1)
    error = each.std(1) / math.sqrt(each.shape[1])
    assert bool(((each.mean(1) + law.log_prob(x)).abs() < 4 * error + 1e-3).all()), each.mean(1)
    heavy = not isinstance(den.corruption, Absorbing)  # replaced tokens at small t weigh 1 / t
    assert float(error.max()) < (0.3 if heavy else 0.1)  # of 2.2 nats


def test_likelihood(prior: Any) -> None:
    texts = ["abc dad", "hhhhhhh", "a b c d"]
    out = prior.likelihood(texts, draws=4, seed=5)
    want = nats(prior.den, prior.codec.encode(texts), 4, [5, 6, 7]).mean(1)
    torch.testing.assert_close(out.x, -want)
    torch.testing.assert_close(out.bpd, want / 7 / math.log(2))
    assert out.nfe == 4 and torch.equal(prior.likelihood(texts[1:], draws=4, seed=6).x, out.x[1:])


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": "ab[30]"}, "the prompt has 32 tokens, its holes included; the context is 12"),
        ({"prompt": "abcdefgh abc"}, "fills the context of 12 tokens"),
        ({"prompt": "In Z"}, "the character 'I' is not among the 9 known"),
        ({"prompt": "a", "hold": Hold(torch.zeros(L).long())}, "instead of hold"),
        ({"length": 13}, "13 tokens: this prior has a context of 12"),
        ({"length": 0}, "context of 12"),
        ({"steps": 0}, "steps = 0"),
        ({"sampler": "ddim"}, "sampler 'ddim' is not one of tokens; one of auto, first-hitting"),
        ({"sampler": Confidence(4), "steps": 3}, "has its own: leave steps out"),
        ({"hold": Hold(torch.full((L,), 12), torch.arange(L) < 3)}, r"integers in \[0, 10\)"),
        ({"hold": Hold(torch.zeros(L).long())}, "every token is held"),
        ({"hold": Hold(torch.zeros(5).long(), torch.arange(5) < 2)}, "does not fit 8 samples of 12 tokens"),
        ({"temperature": -1.0}, "temperature = -1"),
        ({"top_p": 0.0}, r"p = 0.0: a mass in \(0, 1\]"),
        ({"label": 3}, "label"),
        ({"n": 2, "seeds": [1]}, "one seed a sample"),
    ],
)
def test_refused(prior: Any, how: dict[str, Any], said: str) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        prior.sample(**how)


def test_classify_and_features_of_texts() -> None:
    prior = prior_of(classes=3)
    x = prior.sample(seeds=range(4), label=1).x
    found = prior.classify(x, calls=6)
    assert found.names == ("x", "y", "z") and found.nats.shape == (4, 3)
    assert found.each == 6 and bool(found.errors.isfinite().all())
    assert prior.features(x, t=0.5).x.shape[0] == 4


def test_what_it_cannot_do_it_says(prior: Any) -> None:
    for call, said in (
        (lambda: prior.restore(None), "no restore: hold what is known"),
        (lambda: prior.classify(["ab"]), "knows no classes"),
        (lambda: prior.tune(4), "no grid to tune"),
        (lambda: prior.likelihood(["ab"], draws=0), "draws = 0"),
        (lambda: prior.edit(["ab"], span=(1, 4)), r"places in 0 \.\. 2"),
        (lambda: prior.edit(["ab"], strength=0.0), r"one in \(0, 1\]"),
        (lambda: prior.edit(["a" * 13]), "13 tokens: this prior has a context of 12"),
        (lambda: prior.edit(["ab", "abc"]), "one length was expected"),
        (lambda: prior.likelihood(torch.tensor([[0, 9]])), "tokens from 0 to 9 came; 9 symbols are known"),
        (lambda: prior_of(Uniform(9)).sample(1, sampler="first-hitting"), "for an absorbing corruption"),
    ):
        with pytest.raises(ValueError, match=said):
            call()


def test_a_codec_of_another_size_is_refused(prior: Any, tmp_path: Path) -> None:
    folder = prior.save(tmp_path / "p")
    config = json.loads((folder / "config.json").read_text())
    config["codec"]["alphabet"] += "i"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="a codec of 10 symbols came; the token denoiser was trained on 9"):
        oneprior.load(folder)
    assert dataclasses.replace(LETTERS, alphabet=" abc").symbols == 4
