"""Text to tokens and back."""

import json

import pytest
import torch

from oneprior.codecs import Bytes, Characters, Pieces, Text, from_dict

BOOK = "In the beginning was the word, and the word was with the reader; the reader was with the word.\n" * 8


@pytest.fixture(scope="module", params=["characters", "bytes", "pieces"])
def codec(request: pytest.FixtureRequest) -> Text:
    if request.param == "pieces":
        pytest.importorskip("tokenizers")
        return Pieces.of([BOOK], 300)
    return Bytes() if request.param == "bytes" else Characters.of([BOOK, "äöü"])


def test_round_trip(codec: Text) -> None:
    x = codec.encode([BOOK, BOOK])
    assert x.dtype == torch.int64 and x.shape[0] == 2 and int(x.max()) < codec.symbols
    assert codec.decode(x) == [BOOK, BOOK]
    assert codec.decode(codec.encode("the word"))[0] == "the word"
    again = from_dict(json.loads(json.dumps(codec.config())))
    assert again == codec and torch.equal(again.encode([BOOK]), x[:1])  # type: ignore[arg-type]
    assert codec.encode(x) is x


def test_a_mask_is_shown(codec: Text) -> None:
    x = codec.encode(["the word"])
    mask = codec.symbols
    x[0, 0] = mask
    shown = codec.decode(x)[0]
    assert shown[0] == "▒" and shown.count("▒") == 1 and shown.endswith("word")
    every = torch.full((2, 3), mask)
    assert codec.decode(every) == ["▒▒▒"] * 2


def test_pieces_are_longer_than_bytes_and_cover_any_text() -> None:
    pytest.importorskip("tokenizers")
    codec = Pieces.of([BOOK], 300)
    assert 256 < codec.symbols <= 300 and len(codec.ids(BOOK)) < 0.5 * len(BOOK)
    assert codec.words(codec.ids("Ωλ never seen 漢字")) == "Ωλ never seen 漢字"
    with pytest.raises(ValueError, match="256 bytes alone"):
        Pieces.of([BOOK], 200)


def test_bytes_of_letters_and_of_none() -> None:
    assert Bytes().ids("é") == [0xC3, 0xA9] and Bytes().words([0xC3]) == "�"
    assert Characters.of(["ba", "ca"]).alphabet == "abc"


def test_refused() -> None:
    codec = Characters.of(["in the beginning"])
    with pytest.raises(ValueError, match="the character 'Z' is not among the 8 known: ' beghint"):
        codec.encode(["in Zion"])
    with pytest.raises(ValueError, match=r"texts of \[2, 3\] tokens came; one length was expected"):
        codec.encode(["in", "the"])
    with pytest.raises(ValueError, match="tokens from 0 to 8 came; 8 symbols are known"):
        codec.encode(torch.tensor([[0, 8]]))
    with pytest.raises(ValueError, match="tokens from -1"):
        codec.encode(torch.tensor([[-1]]))
