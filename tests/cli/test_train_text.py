"""A book from the command line: train, go on, draw, ask, edit; and every refusal of tokens."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import oneprior
from oneprior.codecs import Characters
from oneprior.conditions import Conditions
from oneprior.nets import TokensConfig, build
from oneprior.token_prior import TokenPrior
from oneprior.tokens import Absorbing, TokenDenoiser

Cli = Callable[..., Any]
TINY = ("--length", 16, "--net-args", "width=16", "depth=1", "heads=2", "--batch", 16, "--warmup", 0, "--lr", 0.01)
LINE = "and the word was with the reader.\n"


@pytest.fixture
def book() -> Path:
    Path("book.txt").write_text(LINE * 40)
    return Path("book.txt")


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net, g = build(TokensConfig((16,), vocab=10, width=16, depth=1, heads=2), 0), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=g))
    den = TokenDenoiser(net, Absorbing(10), timed=False)
    prior = TokenPrior(den, Characters(" abcdefgh"), Conditions({}), {"shape": [16], "data": {"name": "letters"}})
    return prior.save(tmp_path_factory.mktemp("priors") / "letters")


def test_a_book(cli: Cli, book: Path) -> None:
    done = cli("train", "--data", book, "--name", "b", *TINY, "--samples", 640, "--json")
    run = Path("runs/b")
    assert done.code == 0 and done.json["prior"] == str(run / "prior"), done.err
    assert done.json["bits"] < 3.9 and done.json["bits_error"] > 0  # of 14 symbols
    assert (run / "report.html").exists() and list((run / "samples").glob("*.txt"))
    prior = oneprior.load(run)
    assert isinstance(prior, TokenPrior) and prior.facts["data"]["name"] == "book" and prior.codec.symbols == 14
    assert prior.facts["training"]["loss"] == "masks"
    asked = cli("likelihood", run, book, "--split", "test", "--draws", 8, "--json")
    assert asked.code == 0 and asked.json["mean"] == pytest.approx(done.json["bits"], abs=4 * done.json["bits_error"])
    said = cli("info", run, "--json").json
    assert said["network"] == "tokens" and "Absorbing(vocab=15" in said["corruption"] and "schedule" not in said
    assert cli("train", "--name", "b", "--resume", "--samples", 656, "--json").json["samples"] == 656


def test_samples_are_printed_and_kept(cli: Cli, letters: Path) -> None:
    call = ("sample", "--prior", letters, "--prompt", "ab[4]c", "--steps", 2, "--out", "s")
    done = cli(*call, "--n", 3)
    assert done.code == 0, done.err
    files = sorted(Path("s").glob("*.txt"))
    assert [f.name for f in files] == ["000000.txt", "000001.txt", "000002.txt"]
    for i, f in enumerate(files):
        text = f.read_text()
        assert text[:2] == "ab" and text[-1] == "c" and len(text) == 7 and f"{i}: {text}" in done.out
    want = oneprior.load(letters).sample(seeds=[2], prompt="ab[4]c", steps=2)
    assert files[2].read_text() == want.texts[0]  # type: ignore[attr-defined]
    more = cli(*call, "--seeds", "2-3", "--json")
    assert more.json["kept"] == 1 and json.loads(Path("s/result.json").read_text())["seeds"] == [0, 1, 2, 3]
    other = cli(*call, "--n", 1, "--temperature", 0.5)
    assert other.code == 2 and "samples of other settings" in other.err
    assert cli(*call, "--n", 1, "--temperature", 0.5, "--force").code == 0 and len([*Path("s").glob("*.txt")]) == 1


@pytest.mark.parametrize(
    "flags", [("--sampler", "confidence"), ("--top-p", 0.5), ("--length", 8), ("--temperature", 0)]
)
def test_settings_of_samplers(cli: Cli, letters: Path, flags: tuple[Any, ...]) -> None:
    done = cli("sample", letters, "--n", 2, "--steps", 4, *flags, "--out", "s", "--json")
    assert done.code == 0, done.err
    texts = [Path(f).read_text() for f in done.json["files"]]
    assert all(len(t) == (8 if "--length" in flags else 16) for t in texts)
    plain = oneprior.load(letters).sample(seeds=range(2), steps=4)
    assert texts != list(plain.texts)  # type: ignore[attr-defined]


def test_edit(cli: Cli, letters: Path) -> None:
    Path("in").mkdir()
    Path("in/a.txt").write_text("abcdefgh abc")
    Path("in/b.txt").write_text("hhhh aa")
    done = cli("edit", letters, "in", "--span", "2,6", "--json")
    assert done.code == 0, done.err
    rows = done.json["texts"]
    assert [Path(r["edited"]).name for r in rows] == ["a.txt", "b.txt"]
    new = Path(rows[0]["edited"]).read_text()
    assert new[:2] == "ab" and new[6:] == "gh abc" and len(new) == 12
    assert cli("edit", letters, "in/a.txt", "--strength", 1, "--out", "e").code == 0
    assert cli("edit", letters, "in/a.txt", "--out", "e").code == 2  # it would be written over
    for flags, said in ((("--span", "2"), "FIRST,LAST"), (("--span", "9,99"), "places in 0 .. 12")):
        done = cli("edit", letters, "in/a.txt", *flags)
        assert done.code == 2 and said in done.err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("sample", "P", "--prompt", ""), "the prompt is empty"),
        (("sample", "P", "--prompt", "a[99]"), "the context is 16"),
        (("sample", "P", "--prompt", "Ω"), "not among the 9 known"),
        (("sample", "P", "--sampler", "ddim"), "one of auto, first-hitting"),
        (("sample", "P", "--trajectory", "a.gif"), "--trajectory is not for a prior of tokens"),
        (("sample", "P", "--eta", "1"), "--eta is not for a prior of tokens"),
        (("sample", "P", "--guidance", "2"), "guidance needs a conditional prior"),
        (("restore", "P", "book.txt", "--operator", "mask:half"), "a prior of text, which this command does not take"),
        (("classify", "P", "book.txt"), "a prior of text, which this command does not take"),
        (("evaluate", "P", "book.txt"), "a prior of text, which this command does not take"),
        (("likelihood", "P"), "which text?"),
        (("likelihood", "P", "no.txt"), "no text at 'no.txt'"),
        (("likelihood", "P", "book.txt"), "the character 'n' is not among"),
        (("likelihood", "P", "latin.txt"), "is not UTF-8: byte 0xe9 in line 1"),
        (("train", "latin.txt"), "is not UTF-8"),
        (("train", "empty"), "it holds nothing"),
        (("train", "book.txt", "--length", "5000"), "a window of 5000"),
        (("train", "book.txt", "--length", "500"), "has 136 tokens (test): a window of 500 or more was expected"),
        (("train", "book.txt", "--tokens", "words"), "characters, bytes or pieces:4096"),
        (("train", "book.txt", "--net", "unet"), "leave --net out, or say tokens"),
        (("train", "book.txt", "--length", "16", "--net-args", "widht=3"), "TokensConfig takes"),
        (("train", "book.txt", "--variance"), "leave out --pairs"),
        (("train", "kjv"), "ONEPRIOR_DATA is not set"),
    ],
)
def test_refused(cli: Cli, letters: Path, book: Path, argv: tuple[str, ...], said: str) -> None:
    Path("latin.txt").write_bytes(b"caf\xe9 and more of it")
    Path("empty").mkdir()
    done = cli(*(str(letters) if a == "P" else a for a in argv))
    assert done.code == 2 and said in done.err and "Traceback" not in done.err
    assert not Path("runs").exists()


def test_flags_of_text_are_not_for_pictures(cli: Cli, digits_prior: Path) -> None:
    done = cli("sample", digits_prior, "--prompt", "seven")
    assert done.code == 2 and "--prompt is for a prior of tokens" in done.err
    one, two = (
        cli("sample", *p, "--n", 1, "--out", f"o{i}") for i, p in enumerate([[digits_prior], ["--prior", digits_prior]])
    )
    assert one.code == two.code == 0
    assert Path("o0/000000.png").read_bytes() == Path("o1/000000.png").read_bytes()
    assert json.loads(Path("o0/result.json").read_text())["settings"]["steps"] == 20
