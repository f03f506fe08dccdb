"""What a network is, as data: frozen settings that import no torch.

Every network takes `forward(x, t, *, label, vector, tokens, token_mask, image, second_time, ...)`. A port exists
only if its field here is set; a port left out of a call stands for "not given", which is also what its null says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

__all__ = [
    "ClipConfig",
    "DiTConfig",
    "MLPConfig",
    "NetConfig",
    "TokensConfig",
    "UNetConfig",
    "config_from_dict",
    "to_dict",
]


@dataclass(frozen=True)
class NetConfig:
    """Fields that all networks share.

    shape: of one sample: (C, H, W), (d,) or, for `DiTConfig`, (L, d).
    classes: number of classes of the port `label`; index `classes` is the null label. 0: no such port.
    vector, tokens, image: width of the port `vector` (B, vector), of each of `tokens` (B, L, tokens), and channels
        of `image` (B, image, H, W). 0: no such port.
    second_time: whether the net takes a second time (flow maps); left out of a call it equals the first.
    time_axes: how many axes of t beyond the batch it takes: 0 for (B,), 1 for (B, L) or (B, d), 3 for (B, 1, H, W).
    out_channels: channels of the output, C (or d) if None; more for a variance head.
    dropout: inside residual blocks, in [0, 1).
    """

    shape: tuple[int, ...]
    classes: int = 0
    vector: int = 0
    tokens: int = 0
    image: int = 0
    second_time: bool = False
    time_axes: int = 0
    out_channels: int | None = None
    dropout: float = 0.0

    type: ClassVar[str] = ""
    ranks: ClassVar[tuple[int, ...]] = ()

    def __post_init__(self) -> None:
        name = type(self).__name__
        for field in fields(self):  # JSON and YAML give lists
            if isinstance(value := getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(value))
        if len(self.shape) not in self.ranks or min(self.shape) < 1:
            known = {1: "(d,)", 2: "(L, d)", 3: "(C, H, W)", 4: "(F, C, H, W)"}
            wanted = " or ".join(known[r] for r in self.ranks)
            raise ValueError(f"{name} wants shape {wanted} of one sample, without the batch; got {self.shape}")
        for field in ("classes", "vector", "tokens", "image", "time_axes"):
            if getattr(self, field) < 0:
                raise ValueError(f"{name}: {field} must be 0 (no such port) or more; got {getattr(self, field)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"{name}: dropout must be in [0, 1); got {self.dropout}")
        if self.time_axes > len(self.shape):
            raise ValueError(f"{name}: time_axes={self.time_axes} exceeds the {len(self.shape)} axes of {self.shape}")

    @property
    def channels_in(self) -> int:
        """Channels of x, without those of the port `image`."""
        return self.shape[-1] if len(self.shape) == 2 else self.shape[-3:][0]

    @property
    def channels_out(self) -> int:
        return self.channels_in if self.out_channels is None else self.out_channels


@dataclass(frozen=True)
class UNetConfig(NetConfig):
    """Residual U-Net: best quality per CPU second up to 64 x 64.

    channels: of each resolution, halved from one to the next. blocks: residual blocks at each.
    attention: resolutions with attention, as indices of `channels` (-1: the coarsest); () for none.
    head: channels of one attention head, or a little more where they do not divide.
    patch: side of the squares that the finest resolution takes as one cell: 2 sees 32 x 32 pixels as 16 x 16 cells of
        four times the channels (Hoogeboom et al. 2023, "simple diffusion").
    """

    channels: tuple[int, ...] = (32, 64)
    blocks: int = 1
    attention: tuple[int, ...] = (-1,)
    head: int = 32
    patch: int = 1

    type: ClassVar[str] = "unet"
    ranks: ClassVar[tuple[int, ...]] = (3,)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.channels or self.blocks < 1:
            raise ValueError(f"UNetConfig wants channels and blocks >= 1; got {self.channels}, blocks={self.blocks}")
        if self.head < 1 or any(c < 4 or c % 4 for c in self.channels):
            raise ValueError(f"UNetConfig: channels must be multiples of 4; got {self.channels}, head={self.head}")
        if self.tokens and not self.attention:
            raise ValueError("UNetConfig: tokens are read by attention, and attention=() has none: name a resolution")
        if self.patch < 1 or self.shape[1] % self.factor or self.shape[2] % self.factor:
            raise ValueError(
                f"UNetConfig: {len(self.channels)} resolutions of patch={self.patch} need sides divisible by "
                f"{self.factor}; got {self.shape[1]} x {self.shape[2]}: give fewer channels or pad the pictures"
            )
        for level in self.attention:
            if not -len(self.channels) <= level < len(self.channels):
                raise ValueError(f"UNetConfig: attention={self.attention} names no index of channels={self.channels}")

    @property
    def factor(self) -> int:
        """What the sides of a picture are divided by down to the coarsest resolution."""
        return self.patch * 2 ** (len(self.channels) - 1)

    @classmethod
    def sized(cls, shape: tuple[int, ...], size: str = "small", **fields: Any) -> UNetConfig:
        """A preset for pictures of this shape: "tiny", "small" or "base"; further fields as in the class."""
        levels = 1  # halve while the sides are even, down to 4 x 4 for digits and 8 x 8 for larger pictures
        floor, p = 4 if min(shape[1:]) < 16 else 7, fields.get("patch", 1)
        while all(n % (p * 2**levels) == 0 and n // p >> levels >= floor for n in shape[1:]):
            levels += 1
        ladder = {"tiny": (16, 32, 32, 48), "small": (32, 64, 96, 128), "base": (64, 128, 192, 256)}
        if levels == 3:
            ladder = {"tiny": (16, 32, 32), "small": (32, 64, 64), "base": (64, 128, 128)}
        channels = _pick("UNetConfig", ladder, size)
        channels = (*channels, *[channels[-1]] * (levels - len(channels)))[:levels]
        return cls(shape, **{"channels": channels, "blocks": 2 if size == "base" else 1, **fields})


@dataclass(frozen=True)
class DiTConfig(NetConfig):
    """Patch transformer for pictures (C, H, W), or transformer over sequences (L, d) with patch = 1.

    patch: side of a patch. width, depth, heads: of the transformer. mlp: hidden width of the feed-forward part / width.
    """

    patch: int = 4
    width: int = 192
    depth: int = 6
    heads: int = 6
    mlp: int = 4

    type: ClassVar[str] = "dit"
    ranks: ClassVar[tuple[int, ...]] = (2, 3)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.shape) == 2 and (self.patch != 1 or self.image):
            raise ValueError(
                f"DiTConfig: a sequence {self.shape} wants patch=1 and no image port; "
                f"got patch={self.patch}, image={self.image}"
            )
        if len(self.shape) == 3 and (self.shape[1] % self.patch or self.shape[2] % self.patch):
            raise ValueError(f"DiTConfig: patch={self.patch} does not divide {self.shape[1]} x {self.shape[2]}")
        if self.width % self.heads or self.width % 4:
            raise ValueError(f"DiTConfig: width must be a multiple of heads and of 4; got {self.width}, {self.heads}")

    @classmethod
    def sized(cls, shape: tuple[int, ...], size: str = "small", **fields: Any) -> DiTConfig:
        """A preset: "tiny" (width 96, 4 layers), "small" (192, 6) or "base" (384, 12), at most 64 patches."""
        width, depth, heads = _pick("DiTConfig", {"tiny": (96, 4, 3), "small": (192, 6, 6), "base": (384, 12, 6)}, size)
        patch = 1
        if len(shape) == 3:
            patch = next(
                (
                    p
                    for p in (2, 4, 7, 8, 16, 32)
                    if not shape[1] % p and not shape[2] % p and shape[1] * shape[2] <= 64 * p * p
                ),
                1,
            )
        return cls(shape, **{"width": width, "depth": depth, "heads": heads, "patch": patch, **fields})


@dataclass(frozen=True)
class MLPConfig(NetConfig):
    """Residual multilayer perceptron: points, vectors, small pictures taken as vectors.

    width, depth: features and residual blocks.
    """

    width: int = 128
    depth: int = 4

    type: ClassVar[str] = "mlp"
    ranks: ClassVar[tuple[int, ...]] = (1, 3)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tokens:
            raise ValueError("MLPConfig has no port for tokens: use UNetConfig or DiTConfig, or pool them to a vector")
        if self.image and len(self.shape) == 1:
            raise ValueError("MLPConfig: the port image needs shape (C, H, W); for (d,) use the port vector")

    @classmethod
    def sized(cls, shape: tuple[int, ...], size: str = "small", **fields: Any) -> MLPConfig:
        """A preset: "tiny" (width 64, 3 blocks), "small" (128, 4) or "base" (512, 6)."""
        width, depth = _pick("MLPConfig", {"tiny": (64, 3), "small": (128, 4), "base": (512, 6)}, size)
        return cls(shape, **{"width": width, "depth": depth, **fields})


@dataclass(frozen=True)
class TokensConfig(NetConfig):
    """Transformer over tokens (L,), integers below `vocab`; gives logits (B, L, vocab).

    vocab: number of symbols, the mask included. timed: whether it is told the time. causal: each position sees those
    before it and itself (autoregression). grid: rows and columns of codes of a picture, () for text. conv: width of
    the depthwise convolution over neighbours in each block, odd; 0 for none. words: vocabulary of the port `words`,
    captions that an encoder of the net's own reads (`tokens` is then its width). width, depth, heads, mlp: of the
    transformer.
    """

    vocab: int = 0
    timed: bool = False
    causal: bool = False
    grid: tuple[int, ...] = ()
    conv: int = 0
    words: int = 0
    width: int = 192
    depth: int = 6
    heads: int = 6
    mlp: int = 4

    type: ClassVar[str] = "tokens"
    ranks: ClassVar[tuple[int, ...]] = (1,)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vocab < 2:
            raise ValueError(f"TokensConfig wants a vocabulary of 2 symbols or more; got {self.vocab}")
        if self.words and self.tokens not in (0, self.width):
            raise ValueError("TokensConfig: words are read by an encoder of the net's own; leave tokens out")
        if self.words:
            object.__setattr__(self, "tokens", self.width)
        if self.image or self.second_time or self.out_channels is not None:
            raise ValueError("TokensConfig has no port image or second_time, and its output is one logit a symbol")
        if self.grid and (len(self.grid) != 2 or self.grid[0] * self.grid[1] != self.shape[0]):
            raise ValueError(f"TokensConfig: grid={self.grid} does not hold the {self.shape[0]} tokens of a sample")
        if self.width % self.heads or self.width // self.heads % 4:
            raise ValueError(f"TokensConfig: width={self.width} must be heads={self.heads} times a multiple of 4")
        if self.conv and (self.conv % 2 == 0 or self.conv < 0 or (self.causal and self.grid)):
            raise ValueError(f"TokensConfig: conv={self.conv} must be odd, or 0; and causal goes with text alone")

    @classmethod
    def sized(cls, shape: tuple[int, ...], size: str = "small", **fields: Any) -> TokensConfig:
        """A preset: "tiny" (width 128, 4 layers), "small" (192, 6) or "base" (384, 12)."""
        ladder = {"tiny": (128, 4, 4), "small": (192, 6, 6), "base": (384, 12, 6)}
        width, depth, heads = _pick("TokensConfig", ladder, size)
        return cls(shape, **{"width": width, "depth": depth, "heads": heads, "conv": 5, **fields})


@dataclass(frozen=True)
class CodesConfig(UNetConfig):
    """U-Net over a grid of codes (VQ-DDM): shape (width, h, w) of the embedded codes, logits of `vocab` symbols out.

    vocab: number of symbols, the mask included where there is one.
    """

    vocab: int = 0

    type: ClassVar[str] = "codes"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vocab < 2 or self.image or self.second_time or self.out_channels not in (None, self.vocab):
            raise ValueError(f"CodesConfig wants a vocabulary >= 2 and no image or second_time; got vocab={self.vocab}")
        object.__setattr__(self, "out_channels", self.vocab)


@dataclass(frozen=True)
class ClipConfig(NetConfig):
    """Clips (F, C, H, W): a network of pictures, its ports, and attention across frames between its blocks.

    frame: of the network of pictures. causal: frames see themselves and those before. head: channels of one attention
    head across frames, or a little more.
    """

    time_axes: int = 1
    frame: NetConfig = UNetConfig((1, 8, 8))
    causal: bool = False
    head: int = 32

    type: ClassVar[str] = "clips"
    ranks: ClassVar[tuple[int, ...]] = (4,)

    def __post_init__(self) -> None:
        if isinstance(self.frame, Mapping):
            object.__setattr__(self, "frame", config_from_dict(self.frame))
        frame = self.frame
        if not isinstance(frame, UNetConfig | DiTConfig) or tuple(self.shape[1:]) != frame.shape or frame.time_axes:
            raise ValueError(
                f"ClipConfig: clips {tuple(self.shape)} want frame=UNetConfig or DiTConfig for pictures "
                f"{tuple(self.shape[1:])} of one time each; got {frame}"
            )
        for port in ("classes", "vector", "tokens", "image", "second_time", "out_channels", "dropout"):
            object.__setattr__(self, port, getattr(frame, port))
        super().__post_init__()


CONFIGS: dict[str, type[NetConfig]] = {
    c.type: c for c in (UNetConfig, DiTConfig, MLPConfig, TokensConfig, CodesConfig, ClipConfig)
}


def to_dict(config: Any) -> dict[str, Any]:
    """{"type": "unet", ...fields}: what `config_from_dict` reads back, also after a trip through JSON."""
    inner = {"frame": to_dict(config.frame)} if isinstance(config, ClipConfig) else {}
    return {"type": config.type, **asdict(config), **inner}


def config_from_dict(data: Mapping[str, Any]) -> Any:
    """The config that `to_dict` wrote. Raises ValueError for an unknown type or field, naming the known ones."""
    rest = {key: value for key, value in data.items() if key != "type"}
    from oneprior.nets.joint_config import JointConfig

    every: dict[str, Any] = {**CONFIGS, JointConfig.type: JointConfig}
    cls = _pick("network", every, data.get("type"))
    known = {field.name for field in fields(cls)}
    if unknown := sorted(set(rest) - known):
        raise ValueError(f"{cls.__name__} has no field {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    return cls(**rest)


def _pick(what: str, table: Mapping[str, Any], key: Any) -> Any:
    if key not in table:
        raise ValueError(f"{what} knows {', '.join(map(repr, table))}; got {key!r}")
    return table[key]
