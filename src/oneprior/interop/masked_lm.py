"""Masked language models of transformers as priors of text: MDLM's and LLaDA's reading of a BERT-like network.

A network trained to fill masks gives p(x_0^l | visible tokens), which is the posterior of an absorbing corruption, with
no need to be told the time (Sahoo et al. 2024; Nie et al. 2025): the mask is never an answer, visible tokens are
copied. Here the mask is the last symbol; the checkpoint's mask and its last token therefore change places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from oneprior.codecs import Text
from oneprior.conditions import Conditions
from oneprior.interop import Foreign, settings
from oneprior.interop.diffusers import loaded
from oneprior.storage import Parts
from oneprior.tokens import Absorbing, TokenDenoiser


class Filler(nn.Module):
    """Tokens (B, L) -> logits (B, L, vocab), the mask and the last token of the checkpoint exchanged."""

    order: Tensor

    def __init__(self, model: nn.Module, mask: int, vocab: int) -> None:
        super().__init__()
        self.model = model
        order = torch.arange(vocab)
        order[mask], order[-1] = vocab - 1, mask
        self.register_buffer("order", order, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(input_ids=self.order[x]).logits[..., self.order]


@dataclass(frozen=True)
class Words(Text):
    """The checkpoint's tokeniser, without the tokens it would put around a text. mask, vocab: of the network."""

    tokenizer: Any = None
    mask: int = 0
    vocab: int = 0
    type: ClassVar[str] = "words"

    @property
    def symbols(self) -> int:
        return self.vocab - 1

    def ids(self, text: str) -> list[int]:
        found = self.tokenizer(text, add_special_tokens=False).input_ids
        if self.mask in found:
            raise ValueError(f"{text!r} holds the mask: in a prompt write [n] for n tokens to fill")
        return [self.mask if i == self.vocab - 1 else i for i in found]

    def words(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode([self.vocab - 1 if i == self.mask else i for i in ids])

    def config(self) -> dict[str, Any]:
        return {"type": self.type, "vocab": self.vocab, "mask": self.mask}


def read(folder: Path) -> Foreign:
    """A folder that transformers saved: ...ForMaskedLM and its tokeniser."""
    import transformers

    config = settings(folder)
    kind = (config.get("architectures") or [""])[0]
    if config.get("auto_map"):
        raise ValueError(
            f"{folder}: {kind} brings code of its own (auto_map), which is not run: wrap the model yourself"
        )
    if not kind.endswith("ForMaskedLM"):
        raise ValueError(
            f"{folder}: {kind or 'no architecture'} is not read; masked language models (...ForMaskedLM) are"
        )
    model = loaded(folder, kind, (kind,), transformers)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    mask, vocab = config.get("mask_token_id", tokenizer.mask_token_id), model.config.vocab_size
    if mask is None or not 0 <= mask < vocab:
        raise ValueError(f"{folder}: neither config.json nor the tokeniser names a mask among the {vocab} tokens")
    length = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 1 << 30))
    if length >= 1 << 30:
        raise ValueError(f"{folder} does not say how long a text may be: set model_max_length of the tokeniser")
    den = TokenDenoiser(Filler(model, mask, vocab), Absorbing(vocab), timed=False)
    facts = {"shape": [length], "data": {"name": folder.name}, "format": f"transformers {kind}"}
    codec: Any = Words(tokenizer, mask, vocab)
    return Foreign(Parts(den, codec, Conditions(), facts))
