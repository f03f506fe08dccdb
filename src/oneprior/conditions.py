"""Conditions: what a user says about a sample, as tensors for the ports of a network.

Each condition has a value that stands for "nothing said", its null. Dropping a condition for a share p of the training
samples teaches one network both p(x | c) and p(x), as classifier-free guidance wants (Ho & Salimans 2022).

    conditions = Conditions({"label": Label(("cat", "dog"))})
    conditions.encode(3, label="dog")               # {"label": tensor([1, 1, 1])}
    UNetConfig((3, 32, 32), **conditions.fields)    # classes=2
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

__all__ = ["Anchor", "Caption", "Condition", "Conditions", "Field", "Label", "Vector"]


class Condition(ABC):
    """One thing a user can say. Ports are keyword names of the networks."""

    type: ClassVar[str]

    @property
    @abstractmethod
    def fields(self) -> dict[str, int]:
        """The fields a network config needs for the ports of this condition."""

    @property
    @abstractmethod
    def null(self) -> dict[str, Tensor]:
        """ "Nothing said", for each port: one sample, made for `null.expand_as(value)`."""

    @abstractmethod
    def encode(self, value: Any, batch: int) -> dict[str, Tensor]:
        """Port tensors of `batch` samples, from one value for all or one for each; None is the null."""

    def drop(self, ports: Mapping[str, Tensor], keep: Tensor) -> dict[str, Tensor]:
        """The ports of this condition, with the null where keep, bool (B,), is False."""
        out = {}
        for port, null in self.null.items():
            value = ports[port]
            out[port] = torch.where(keep.to(value.device).reshape(-1, *[1] * (value.ndim - 1)), value, null.to(value))
        return out


@dataclass(frozen=True)
class Label(Condition):
    """One of the named classes; the null is index len(names). Port `label`: int64 (B,)."""

    names: tuple[str, ...]
    type: ClassVar[str] = "label"

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(map(str, self.names)))
        if not self.names or len(set(self.names)) < len(self.names):
            raise ValueError(f"Label wants at least one name and each once; got {self.names}")

    @property
    def fields(self) -> dict[str, int]:
        return {"classes": len(self.names)}

    @property
    def null(self) -> dict[str, Tensor]:
        return {"label": torch.tensor([len(self.names)])}

    def encode(self, value: Any, batch: int) -> dict[str, Tensor]:
        """value: a name, an index in 0..n (n: the null), None, or a sequence or integer tensor of these."""
        if isinstance(value, Tensor):
            if value.is_floating_point() or value.dtype == torch.bool or value.ndim > 1:
                raise TypeError(
                    f"label wants an integer tensor of shape ({batch},); got {value.dtype}, {tuple(value.shape)}"
                )
            index = value.long().reshape(-1)
        else:
            values = value if isinstance(value, (list, tuple, range)) else [value]
            index = torch.tensor([self._index(v) for v in values])
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) <= len(self.names):
            raise ValueError(
                f"label must be in 0..{len(self.names) - 1} ({self._known()}), or {len(self.names)} for "
                f"none; got {int(index.min())}..{int(index.max())}"
            )
        return {"label": _rows("label", index, batch)}

    def _index(self, value: Any) -> int:
        if value is None:
            return len(self.names)
        if isinstance(value, str):
            if value not in self.names:
                raise ValueError(f"no class is called {value!r}; known are {self._known()}")
            return self.names.index(value)
        if isinstance(value, bool) or not hasattr(value, "__index__"):  # numpy's integers have it too
            raise TypeError(f"label wants a name or an index, or a list of them; got {value!r}")
        return int(value)

    def _known(self) -> str:
        return ", ".join(self.names[:20]) + (f", ... ({len(self.names)} in all)" if len(self.names) > 20 else "")


@dataclass(frozen=True)
class Vector(Condition):
    """`size` numbers in the user's units, standardised by mean and std. Port `vector`: float (B, size + 1); the last
    column is 1, and the null all zeros, so that "not given" differs from "equal to the mean"."""

    size: int = 1
    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0
    names: tuple[str, ...] = ()
    type: ClassVar[str] = "vector"

    def __post_init__(self) -> None:
        for name in ("mean", "std", "names"):
            if isinstance(value := getattr(self, name), list):
                object.__setattr__(self, name, tuple(value))
            if isinstance(value, (list, tuple)) and len(value) != self.size and not (name == "names" and not value):
                raise ValueError(f"Vector of size {self.size}: {name} must have {self.size} entries; got {value}")
        if self.size < 1 or not bool((torch.as_tensor(self.std) > 0).all()):
            raise ValueError(f"Vector wants size >= 1 and std > 0; got {self.size}, {self.std}")

    @property
    def fields(self) -> dict[str, int]:
        return {"vector": self.size + 1}

    @property
    def null(self) -> dict[str, Tensor]:
        return {"vector": torch.zeros(1, self.size + 1)}

    def encode(self, value: Any, batch: int) -> dict[str, Tensor]:
        """value: a number or (batch,) numbers if size is 1, (size,) for all samples, (batch, size), or None."""
        if value is None:
            return {"vector": self.null["vector"].repeat(batch, 1)}
        v = _floats("vector", value)
        v = v.reshape(-1, 1) if v.ndim <= 1 and self.size == 1 else v.reshape(1, -1) if v.ndim == 1 else v
        if v.ndim != 2 or v.shape[1] != self.size:
            names = f" ({', '.join(self.names)})" if self.names else ""
            raise ValueError(
                f"vector wants {self.size} numbers a sample{names}; got shape {tuple(torch.as_tensor(value).shape)}"
            )
        v = (v - torch.as_tensor(self.mean).to(v)) / torch.as_tensor(self.std).to(v)
        return {"vector": _rows("vector", torch.cat((v, torch.ones_like(v[:, :1])), 1), batch)}


@dataclass(frozen=True)
class Caption(Condition):
    """A few words, at most `length` of a vocabulary; the network reads them with an encoder of its own. Port `words`:
    int64 (B, length), 0 where there is none, 1 for a word not in the vocabulary; the null is no word at all."""

    vocabulary: tuple[str, ...]
    length: int = 16
    type: ClassVar[str] = "caption"

    def __post_init__(self) -> None:
        object.__setattr__(self, "vocabulary", tuple(self.vocabulary))

    @classmethod
    def of(cls, captions: Iterable[str], length: int | None = None) -> Caption:
        """The vocabulary of captions, and their greatest length."""
        rows = [words(c) for c in captions]
        return cls(tuple(sorted(set().union(*rows))), length or max(map(len, rows), default=1))

    @property
    def fields(self) -> dict[str, int]:
        return {"words": len(self.vocabulary) + 2}

    @property
    def null(self) -> dict[str, Tensor]:
        return {"words": torch.zeros(1, self.length, dtype=torch.long)}

    def encode(self, value: Any, batch: int) -> dict[str, Tensor]:
        """value: a caption for all, (batch,) captions, or None. Raises ValueError for one of no words, or too many."""
        place = {w: i + 2 for i, w in enumerate(self.vocabulary)}
        rows = []
        for caption in [value] if value is None or isinstance(value, str) else value:
            found = [place.get(w, 1) for w in words(caption or "")]
            if caption is not None and not 0 < len(found) <= self.length:
                raise ValueError(f"a caption of 1 to {self.length} words was expected; got {caption!r}")
            rows.append(found + [0] * (self.length - len(found)))
        return {"words": _rows("words", torch.tensor(rows), batch)}


def words(caption: str) -> list[str]:
    """Lower-case words of letters and digits."""
    return re.findall(r"\w+", caption.lower())


@dataclass(frozen=True)
class Field(Condition):
    """`channels` maps on the grid of x (mask, degraded view), [low, high] taken to [-1, 1]. Port `image`: float
    (B, channels + 1, H, W); the last channel is 1, and the null all zeros."""

    channels: int = 1
    low: float = 0.0
    high: float = 1.0
    type: ClassVar[str] = "field"

    def __post_init__(self) -> None:
        if self.channels < 1 or not (math.isfinite(self.low) and self.low < self.high < math.inf):
            raise ValueError(f"Field wants channels >= 1 and low < high; got {self.channels}, {self.low}, {self.high}")

    @property
    def fields(self) -> dict[str, int]:
        return {"image": self.channels + 1}

    @property
    def null(self) -> dict[str, Tensor]:
        return {"image": torch.zeros(1, self.channels + 1, 1, 1)}

    def encode(self, value: Any, batch: int) -> dict[str, Tensor]:
        """value: (channels, H, W) for all samples, (batch, channels, H, W), or None: left out, the null has no grid."""
        if value is None:
            return {}
        v = _floats("image", value)
        v = v[None] if v.ndim == 3 else v
        if v.ndim != 4 or v.shape[1] != self.channels:
            raise ValueError(
                f"image wants shape ({self.channels}, H, W) or ({batch}, {self.channels}, H, W); "
                f"got {tuple(torch.as_tensor(value).shape)}"
            )
        lo, hi = (float(m) for m in v.aminmax())
        slack = 1e-4 * (self.high - self.low)
        if lo < self.low - slack or hi > self.high + slack:
            raise ValueError(
                f"image must be in [{self.low:g}, {self.high:g}]; got {lo:g} to {hi:g}: rescale it, or "
                f"give the Field its own low and high"
            )
        v = (2 * v - (self.low + self.high)) / (self.high - self.low)
        return {"image": _rows("image", torch.cat((v, torch.ones_like(v[:, :1])), 1), batch)}


@dataclass(frozen=True)
class Anchor(Field):
    """The degraded picture at which an anchored schedule ends. Port `y`: float (B, channels, H, W), [low, high] taken
    to [-1, 1]; a network of ours sees it through its port `image` too. It has no null: without y there is no path."""

    type: ClassVar[str] = "anchor"

    @property
    def fields(self) -> dict[str, int]:
        return {"image": self.channels}

    @property
    def null(self) -> dict[str, Tensor]:
        return {}

    def encode(self, value: Any, batch: int) -> dict[str, Tensor]:
        """value: (channels, H, W) for all samples, or (batch, channels, H, W)."""
        if value is None:
            raise ValueError("this prior's path ends at the degraded picture: give it, (B, channels, H, W)")
        return {"y": super().encode(value, batch)["image"][:, :-1]}


class Conditions(Mapping[str, Condition]):
    """The conditions of a prior by the names users type; two may not share a port. Empty for an unconditional prior."""

    def __init__(self, items: Mapping[str, Condition] | None = None) -> None:
        self._items = dict(items or {})
        owner: dict[str, str] = {}
        for name, condition in self._items.items():
            for port in condition.null:
                if port in owner:
                    raise ValueError(f"conditions {owner[port]!r} and {name!r} both use the port {port!r}: merge them")
                owner[port] = name

    def __getitem__(self, name: str) -> Condition:
        return self._items[name]

    def __iter__(self):
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"Conditions({self._items})"

    @property
    def fields(self) -> dict[str, Any]:
        """Fields for a network config: `UNetConfig(shape, **conditions.fields)`."""
        return {field: width for condition in self.values() for field, width in condition.fields.items()}

    @property
    def null(self) -> dict[str, Tensor]:
        """The null of each port, one sample each; `expand_as` the port's tensor."""
        return {port: value for condition in self.values() for port, value in condition.null.items()}

    def encode(self, batch_size: int, **user: Any) -> dict[str, Tensor]:
        """Port tensors for what the user gave; what is left out is left out here too (networks take it as the null).

        Raises TypeError for a name that is no condition, ValueError or TypeError for a value that does not fit.
        """
        if unknown := [name for name in user if name not in self._items]:
            known = f"knows {', '.join(self._items)}" if self._items else "has none: it was trained unconditionally"
            raise TypeError(f"unknown condition {', '.join(unknown)}; this prior {known}")
        return {k: v for name, value in user.items() for k, v in self[name].encode(value, batch_size).items()}

    def drop(self, cond: Mapping[str, Tensor], u: Tensor, p: float) -> dict[str, Tensor]:
        """Port tensors with the null where u < p. u: uniforms (B,), dropping all conditions of a sample together, or
        (B, len(self)), each by itself. Ports of no condition pass unchanged."""
        if u.ndim not in (1, 2) or (u.ndim == 2 and u.shape[1] != len(self)):
            raise ValueError(f"u must have shape (B,) or (B, {len(self)}); got {tuple(u.shape)}")
        out = dict(cond)
        for i, condition in enumerate(self.values()):
            if all(port in cond for port in condition.null):
                out.update(condition.drop(cond, (u if u.ndim == 1 else u[:, i]) >= p))
        return out

    def to_dict(self) -> dict[str, Any]:
        """{name: {"type": "label", ...}}, for JSON."""
        return {name: {"type": condition.type, **asdict(condition)} for name, condition in self.items()}  # pyright: ignore

    @classmethod
    def from_dict(cls, data: Mapping[str, Mapping[str, Any]]) -> Conditions:
        """What `to_dict` wrote. Raises ValueError for a type it does not know."""
        kinds = {kind.type: kind for kind in (Label, Vector, Caption, Field, Anchor)}
        items = {}
        for name, entry in data.items():
            if entry.get("type") not in kinds:
                raise ValueError(f"condition {name!r} has type {entry.get('type')!r}; known are {', '.join(kinds)}")
            items[name] = kinds[entry["type"]](**{k: v for k, v in entry.items() if k != "type"})
        return cls(items)


def _floats(port: str, value: Any) -> Tensor:
    v = torch.as_tensor(value)
    v = v if v.is_floating_point() else v.float()
    if not bool(v.isfinite().all()):
        raise ValueError(f"{port} holds {int((~v.isfinite()).sum())} values that are NaN or infinite")
    return v


def _rows(port: str, value: Tensor, batch: int) -> Tensor:
    if len(value) not in (1, batch):
        raise ValueError(
            f"{port} came for {len(value)} samples, but the batch has {batch}: give one for all or one for each"
        )
    return value if len(value) == batch else value.expand(batch, *value.shape[1:])
