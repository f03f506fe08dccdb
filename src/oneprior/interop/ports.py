"""Conditions of foreign networks: classes without a null, and prompts as the states (B, L, d) of a frozen encoder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from oneprior.conditions import Condition, Label, _rows


class Prompt(Condition):
    """tokenizer, encoder: of transformers, CLIP's; without them prompts come as tensors. The null is the empty prompt.

    Example:
        >>> prior.sample(4, text="a red apple", guidance=5.0)
    """

    type: ClassVar[str] = "prompt"

    def __init__(self, tokenizer: Any, encoder: nn.Module | None, width: int) -> None:
        self.tokenizer, self.encoder, self.width = tokenizer, encoder, width

    def to(self, device: Any) -> Prompt:
        if self.encoder is not None:
            self.encoder.to(device)
        return self

    def __repr__(self) -> str:
        return f"Prompt({type(self.encoder).__name__ if self.encoder else 'states'}, width {self.width})"

    @property
    def fields(self) -> dict[str, int]:
        return {"tokens": self.width}

    @cached_property
    def _empty(self) -> Tensor:
        return self._states([""]).cpu()

    @property
    def null(self) -> dict[str, Tensor]:
        return {} if self.encoder is None else {"tokens": self._empty}

    def encode(self, value: Any, batch: int) -> dict[str, Tensor]:
        """value: a prompt for all, a sequence of one each, None, or states (B, L, d) or (L, d) from elsewhere.

        Raises ValueError for a prompt longer than the encoder reads, and for text where there is no encoder.
        """
        if isinstance(value, Tensor):
            states = value if value.ndim == 3 else value[None]
            if states.shape[-1] != self.width:
                raise ValueError(f"states of width {self.width} were expected; got {tuple(value.shape)}")
            return {"tokens": _rows("tokens", states, batch)}
        texts = [value] if value is None or isinstance(value, str) else list(value)
        return {"tokens": _rows("tokens", self._states([t or "" for t in texts]), batch)}

    @torch.no_grad()
    def _states(self, texts: list[str]) -> Tensor:
        if self.encoder is None:
            raise ValueError(f"this checkpoint has no text encoder: give states (B, L, {self.width}) instead of text")
        longest = self.tokenizer.model_max_length
        for text in texts:
            if (n := len(self.tokenizer(text).input_ids)) > longest:
                raise ValueError(f"a prompt of {n} tokens; the encoder reads {longest} at most: {text[:60]!r} ...")
        ids = self.tokenizer(texts, padding="max_length", max_length=longest, return_tensors="pt").input_ids
        device = next(self.encoder.parameters()).device
        return self.encoder(ids.to(device))[0]


@dataclass(frozen=True)
class Named(Label):
    """A class that has to be said: the network knows no null."""

    @property
    def null(self) -> dict[str, Tensor]:
        return {}

    def encode(self, value: Any, batch: int) -> dict[str, Tensor]:
        out = super().encode(value, batch)
        if bool((out["label"] == len(self.names)).any()):
            raise ValueError(f"this network was trained without a null: say which label of {self._known()}")
        return out
