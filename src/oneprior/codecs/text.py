"""Text as tokens: characters of an alphabet, bytes, or learned pieces of words (byte-pair encoding, Gage 1994).

A tokeniser says text -> integers below `symbols` and back. The mask is not one of them: a corruption puts it behind.
Decoding shows it as a block.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from oneprior.codecs.base import Codec

SHADE = "\u2592"  # how a token still masked is shown


@dataclass(frozen=True)
class Text(Codec, ABC):
    """Abstract: declares `ids` and `words` of one text.

    As a codec: `encode` takes texts of equal length to tokens (B, L), `decode` brings tokens back to texts.
    """

    type: ClassVar[str] = ""

    @property
    @abstractmethod
    def symbols(self) -> int:
        """How many symbols there are, without the mask."""

    @abstractmethod
    def ids(self, text: str) -> list[int]:
        """The tokens of a text. Raises ValueError for what the tokeniser has no symbol for."""

    @abstractmethod
    def words(self, ids: Sequence[int]) -> str:
        """The text of tokens below `symbols`."""

    def encode(self, x: Sequence[str] | Tensor, check: bool = True) -> Tensor:
        """Texts of one length in tokens -> (B, L); tokens pass."""
        if isinstance(x, Tensor):
            if check and x.numel() and not 0 <= int(x.min()) <= int(x.max()) < self.symbols:
                raise ValueError(f"tokens from {int(x.min())} to {int(x.max())} came; {self.symbols} symbols are known")
            return x
        rows = [self.ids(text) for text in ([x] if isinstance(x, str) else x)]
        if len({len(row) for row in rows}) != 1:
            raise ValueError(f"texts of {sorted({len(r) for r in rows})} tokens came; one length was expected")
        return torch.tensor(rows)

    def decode(self, m: Tensor, clip: bool = False) -> list[str]:
        """Tokens (B, L) -> one text a row, masked tokens as a block."""
        return [self._row(row) for row in m.tolist()]

    def _row(self, row: list[int]) -> str:
        out, piece = "", list[int]()
        for i in [*row, self.symbols]:
            if i < self.symbols:
                piece.append(i)
                continue
            out, piece = out + (self.words(piece) if piece else "") + SHADE, []
        return out[: -len(SHADE)]

    @property
    def log_bin(self) -> float:
        return 0.0


@dataclass(frozen=True)
class Characters(Text):
    """One token a character of `alphabet`.

    Example:
        >>> Characters.of(["in the beginning"]).symbols
        8
    """

    alphabet: str = ""
    type: ClassVar[str] = "characters"

    @classmethod
    def of(cls, texts: Iterable[str]) -> Characters:
        """The alphabet of texts, in the order of Unicode."""
        return cls("".join(sorted(set().union(*texts))))

    @property
    def symbols(self) -> int:
        return len(self.alphabet)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {c: i for i, c in enumerate(self.alphabet)}

    def ids(self, text: str) -> list[int]:
        try:
            return [self._index[c] for c in text]
        except KeyError as e:
            raise ValueError(f"the character {e} is not among the {self.symbols} known: {self.alphabet!r}") from None

    def words(self, ids: Sequence[int]) -> str:
        return "".join(self.alphabet[i] for i in ids)


@dataclass(frozen=True)
class Bytes(Text):
    """One token a byte of UTF-8; bytes that are no text are shown as the replacement character."""

    type: ClassVar[str] = "bytes"

    @property
    def symbols(self) -> int:
        return 256

    def ids(self, text: str) -> list[int]:
        return list(text.encode())

    def words(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode(errors="replace")


@dataclass(frozen=True)
class Pieces(Text):
    """Byte-pair encoding on bytes, so that every text has tokens: pieces joined most often become symbols.

    spec: the tokeniser as `tokenizers` writes it in JSON.
    """

    spec: str = ""
    type: ClassVar[str] = "pieces"

    @classmethod
    def of(cls, texts: Iterable[str], symbols: int = 4096) -> Pieces:
        """Learn at most `symbols` pieces from texts."""
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        learned = Tokenizer(models.BPE())
        learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
        learned.decoder = decoders.ByteLevel()  # type: ignore[assignment]
        letters = pre_tokenizers.ByteLevel.alphabet()
        if symbols < len(letters):
            raise ValueError(f"{symbols} symbols: the {len(letters)} bytes alone take as many; more were expected")
        learned.train_from_iterator(
            texts, trainers.BpeTrainer(vocab_size=symbols, initial_alphabet=letters, show_progress=False)
        )
        return cls(learned.to_str())

    @cached_property
    def _learned(self) -> Any:
        from tokenizers import Tokenizer

        return Tokenizer.from_str(self.spec)

    @property
    def symbols(self) -> int:
        return self._learned.get_vocab_size()

    def ids(self, text: str) -> list[int]:
        return self._learned.encode(text).ids

    def words(self, ids: Sequence[int]) -> str:
        return self._learned.decode(list(ids))
