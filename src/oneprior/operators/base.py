"""Measurements: y = A(x_0) + noise n, n ~ N(0, I), with y, noise and A(x_0) in one and the same unit.

An operator is A and, where it is linear, its adjoint A^T, least-norm inverse A^+ and
    prox(z, y, gamma) = argmin_x  gamma/2 |A x - y|^2 + 1/2 |x - z|^2.
Only `forward` must be written; the rest follows from it, and operators with a closed form or an `svd` override.
Complex data is two real channels, (B, *, 2, H, W).
A measurement of pictures in [0, 1] is taken to a model's range with `Measurement.to_model(codec)`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import log, pi, prod
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from oneprior.operators.counting import Poisson, each
from oneprior.operators.solve import cg
from oneprior.operators.svd import Svd
from oneprior.times import align


class Local(NamedTuple):
    """An operator at a point: its value there, and the maps u -> J u and w -> J^T w of its Jacobian."""

    value: Tensor
    forward: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor]


class Operator(ABC):
    """Abstract: declares `forward`, x (B, *shape) -> y (B, *). A linear one has A(0) = 0; others say linear = False.

    span: the range of A(x), for operators on pictures of a known range.
    """

    linear: bool = True
    span: tuple[float, float] | None = None

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor: ...

    def __call__(self, x: Tensor) -> Tensor:
        real(x)
        return self.forward(x)

    def __matmul__(self, inner: Operator) -> Operator:
        """(A @ B)(x) = A(B(x))."""
        return Compose(self, inner)

    def domain(self, y: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of x whose measurement has the shape y, batch axis first."""
        return y

    def count(self, y: Tensor) -> Any:
        """How many numbers a sample of y holds: an int, or a tensor that multiplies y where samples differ."""
        return y[0].numel()

    def svd(self, x: Tensor) -> Svd | None:
        """Singular values and vectors for samples of the shape and type of x (B, *shape), or None."""
        return None

    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y, like x. By differentiation of `forward` unless overridden."""
        self._must_be_linear("an adjoint")
        pull = torch.func.vjp(self.forward, y.new_zeros(self.domain(tuple(y.shape))))[1]
        return pull(y)[0]

    def pinv(self, y: Tensor, iterations: int = 200) -> Tensor:
        """A^+ y, the least-norm x that explains y: conjugate gradients on A A^T unless overridden.

        Operators that are not linear may give a first guess instead, to start a method from.
        """
        self._must_be_linear("a least-norm inverse")
        return self.adjoint(cg(lambda u: self(self.adjoint(u)), y, iterations))

    def prox(self, z: Tensor, y: Tensor, gamma: float, iterations: int = 200) -> Tensor:
        """argmin_x gamma/2 |A x - y|^2 + 1/2 |x - z|^2 = z + A^T (A A^T + I/gamma)^-1 (y - A z)."""
        self._must_be_linear("a proximal step in closed form")
        if (parts := self.svd(z)) is not None:
            return parts.prox(z, y, gamma)
        return z + self.adjoint(cg(lambda u: self(self.adjoint(u)) + u / gamma, y - self(z), iterations))

    def at(self, x: Tensor) -> Local:
        """Value and Jacobian at x; for a linear operator the Jacobian is A itself."""
        if self.linear:
            return Local(self(x), self.forward, self.adjoint)
        value, pull = torch.func.vjp(self.forward, x)[:2]
        return Local(value, lambda u: torch.func.jvp(self.forward, (x,), (u,))[1], lambda w: pull(w)[0])

    def repeat(self, n: int) -> Operator:
        """For a batch in which every sample stands n times in a row; only operators with a part a sample differ."""
        return self

    def _must_be_linear(self, what: str) -> None:
        if not self.linear:
            raise ValueError(f"{type(self).__name__} is not linear, so it has not {what}; override it with a surrogate")


@dataclass(frozen=True, eq=False)
class Compose(Operator):
    """x -> outer(inner(x))."""

    outer: Operator
    inner: Operator

    @property
    def linear(self) -> bool:  # type: ignore[override]
        return self.outer.linear and self.inner.linear

    @property
    def span(self) -> tuple[float, float] | None:  # type: ignore[override]
        return self.outer.span

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x))

    def pinv(self, y: Tensor, iterations: int = 200) -> Tensor:
        return super().pinv(y, iterations) if self.linear else self.inner.pinv(self.outer.pinv(y))

    def domain(self, y: tuple[int, ...]) -> tuple[int, ...]:
        return self.inner.domain(self.outer.domain(y))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.inner.adjoint(self.outer.adjoint(y))

    def at(self, x: Tensor) -> Local:
        first = self.inner.at(x)
        then = self.outer.at(first.value)
        return Local(then.value, lambda u: then.forward(first.forward(u)), lambda w: first.adjoint(then.adjoint(w)))

    def repeat(self, n: int) -> Operator:
        return Compose(self.outer.repeat(n), self.inner.repeat(n))


@dataclass(frozen=True, eq=False)
class Scale(Operator):
    """x -> gain x, element by element; gain broadcasts against x."""

    gain: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return self.gain.to(x) * x

    def adjoint(self, y: Tensor) -> Tensor:
        return self.forward(y)


class Decoder(Protocol):
    """The half of a codec that matters here: model range -> data units."""

    def decode(self, m: Tensor) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Decoded(Operator):
    """m -> codec.decode(m): what stands before a non-linear operator on data units. Not linear: decode(0) is not 0.

    shape: of a sample of m, where a decoder of latents changes it.
    """

    codec: Decoder
    shape: tuple[int, ...] | None = None
    linear = False

    def forward(self, x: Tensor) -> Tensor:
        return self.codec.decode(x)

    def domain(self, y: tuple[int, ...]) -> tuple[int, ...]:
        return y if self.shape is None else (y[0], *self.shape)

    def pinv(self, y: Tensor, iterations: int = 0) -> Tensor:
        """By elements; of latents nothing is known beforehand: 0."""
        if self.shape is not None:
            return y.new_zeros(self.domain(tuple(y.shape)))
        offset = self.codec.decode(torch.zeros_like(y))
        return (y - offset) / (self.codec.decode(torch.ones_like(y)) - offset)


@dataclass(frozen=True, eq=False)
class Measurement:
    """y = operator(x_0) + noise n. noise: a standard deviation in the units of y; a number, (B,), or aligned with y.

    law: None for Gaussian noise; `poisson` makes a measurement with another, whose noise is the Gaussian nearest to it.

    Raises:
        ValueError: for values of y that are not finite, negative noise, noise beyond anything y could hold, or y
            outside of what the operator makes of pictures.
        TypeError: for complex y.
    """

    y: Tensor
    operator: Operator
    noise: float | Tensor = 0.0
    law: Poisson | None = None

    def __post_init__(self) -> None:
        real(self.y)
        if not bool(self.y.isfinite().all()):
            bad = int((~self.y.isfinite()).sum())
            raise ValueError(f"y holds {bad} of {self.y.numel()} values that are NaN or infinite: hide them by a Mask")
        align(self.noise, self.y)
        check_noise(self.y, self.noise)
        if self.operator.span is not None:
            low, high = (float(v) for v in torch.aminmax(self.y))
            (least, most), slack = self.operator.span, 0.01 + 8 * float(torch.as_tensor(self.noise).max())
            if low < least - slack or high > most + slack:
                raise ValueError(
                    f"y lies in [{low:.3g}, {high:.3g}], {type(self.operator).__name__} ends in [{least:g}, {most:g}]: "
                    "give it pictures in [0, 1] (levels 0..255 are divided by 255), and to_model(codec) does the rest"
                )

    @classmethod
    def poisson(cls, y: Tensor, operator: Operator, peak: float) -> Measurement:
        """y = counts / peak with counts ~ Poisson(peak A(x_0)); the noise is what y itself suggests."""
        law = Poisson(peak)
        return cls(y, operator, law.std(y), law)

    def log_prob(self, x0: Tensor) -> Tensor:
        """log p(y | x_0) in nats, (B,). What a mask hides adds a constant."""
        clean = self.operator(x0)
        if self.law is not None:
            return self.law.log_prob(self.y, clean)
        R = torch.as_tensor(self.variance).to(self.y).expand_as(self.y)
        return -0.5 * ((self.y - clean).square() / R + R.log() + log(2 * pi)).flatten(1).sum(1)

    @property
    def variance(self) -> float | Tensor:
        """noise^2, a float or a tensor that multiplies y."""
        return align(self.noise, self.y) ** 2

    def repeat(self, n: int) -> Measurement:
        """The measurement of a batch in which every sample stands n times in a row."""
        law = self.law and self.law.repeat(n)
        return Measurement(self.y.repeat_interleave(n, 0), self.operator.repeat(n), each(self.noise, n), law)

    def to_model(self, codec: Decoder) -> Measurement:
        """The same measurement seen from model range, through a codec x = decode(m) = slope m + offset, element-wise.

        With one slope for all, A x = slope A m + A offset: y and noise change, the operator stays. With a slope a
        channel the operator becomes A slope; a non-linear operator is composed with `decode`, and y and noise stay. A
        codec that is not element-wise says so by an `operator` of its own, which then stands in the place of `decode`.
        """
        A, decoder = self.operator, getattr(codec, "operator", None)
        if decoder is not None:
            return replace(self, operator=A @ decoder)
        if not A.linear:
            return replace(self, operator=A @ Decoded(codec))
        zero = self.y.new_zeros(A.domain(tuple(self.y.shape)))
        offset = codec.decode(zero)
        slope = codec.decode(zero + 1) - offset
        check_range(self, codec)
        shift, one = A(offset), slope.flatten()[0]
        same = torch.allclose(slope, one.expand_as(slope))
        gain = float(one) if same else 1.0
        law = self.law and self.law.moved(gain, shift)
        return Measurement((self.y - shift) / gain, A if same else A @ Scale(slope[:1]), self.noise / gain, law)


def real(x: Tensor) -> None:
    """Raises TypeError for a complex tensor."""
    if x.is_complex():
        shape = (*x.shape[:-2], 2, *x.shape[-2:])
        raise TypeError(
            f"complex numbers are held as two real channels here, (real, imaginary): {shape} was expected, got a "
            f"complex {tuple(x.shape)}; torch.stack([x.real, x.imag], -3) makes one of the other"
        )


def check_range(seen: Measurement, codec: Decoder) -> None:
    """Refuse a y far beyond what a linear operator makes of a picture with all details, where a codec knows its
    `span`."""
    if (span := getattr(codec, "span", None)) is None:
        return
    shape = seen.operator.domain(tuple(seen.y.shape))
    picture = torch.arange(prod(shape), device=seen.y.device).reshape(shape) % 3 / 2  # 0, 1/2, 1, 0, ...
    due = seen.operator(span[0] + (span[1] - span[0]) * picture.to(seen.y.dtype)).square().mean()
    if seen.y.square().mean() > 64 * due + 4 * torch.as_tensor(seen.noise).square().mean():
        low, high = (float(v) for v in torch.aminmax(seen.y))
        raise ValueError(
            f"y lies in [{low:.3g}, {high:.3g}], far beyond what {type(seen.operator).__name__} makes of pictures in "
            f"[{span[0]:g}, {span[1]:g}]: divide levels 0..255 by 255, y and noise alike"
        )


def check_noise(y: Tensor, noise: float | Tensor) -> None:
    """Refuse a noise that cannot be in the units of y.

    Of 16 or more values of y with a noise of that size, none would stay below 2/3 of it (chance 1e-5).
    """
    least = float(torch.as_tensor(noise).min())
    if not least >= 0:
        raise ValueError(f"noise is a standard deviation, >= 0; got {least:g}")
    seen = y[y != 0].unique()  # zeros may be what a mask left; a sample repeated for its draws says nothing new
    if seen.numel() >= 16 and least > 1.5 * float(seen.abs().max()):
        low, high = (float(v) for v in torch.aminmax(y))
        raise ValueError(
            f"noise = {least:g} beside y in [{low:.3g}, {high:.3g}]: noise is a standard deviation in the units of y; "
            f"of levels 0..255 it is noise={least:g}/255, about {least / 255:.3g}"
        )
