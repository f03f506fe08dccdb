"""What happens to light on its way to a file; pictures in [0, 1], none of them linear. `pinv` is a first guess.

    Clip       y = clamp(c + gain (x - c), 0, 1)    an exposure too long (HDR from one picture); c = 1/2 stretches about
                                                    grey, which is the published clamp(2 m, -1, 1) of m in [-1, 1]
    LowLight   y = gain x^gamma                     too short
    Haze       y = x tr + light (1 - tr)            Koschmieder's law, tr the transmission; pinv is its inverse
    GammaBlur  y = (K x^gamma)^(1 / gamma)          blur of the light, stored with a camera's response, as the GoPro set
                                                    was made (Nah et al. 2017, gamma 2.2)
GammaBlur stands for "nonlinear blur"; the trained network of that name (Tran et al. 2021) is another operator.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from oneprior.operators.base import Operator
from oneprior.operators.counting import each
from oneprior.times import align


class Tone(Operator):
    """Abstract: declares `forward`, from pictures in [0, 1] to the same. `pinv` is y itself unless overridden."""

    linear = False
    span = (0.0, 1.0)

    def pinv(self, y: Tensor, iterations: int = 0) -> Tensor:
        return y


@dataclass(frozen=True)
class Clip(Tone):
    gain: float = 2.0
    centre: float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        return (self.centre + self.gain * (x - self.centre)).clamp(0, 1)

    def pinv(self, y: Tensor, iterations: int = 0) -> Tensor:
        return self.centre + (y - self.centre) / self.gain


@dataclass(frozen=True)
class LowLight(Tone):
    """gamma >= 1 darkens the dark more; negative x counts as 0."""

    gamma: float = 2.0
    gain: float = 0.5

    def __post_init__(self) -> None:
        if not (self.gamma >= 1 and self.gain > 0):
            raise ValueError(f"gamma = {self.gamma}, gain = {self.gain}: gamma >= 1 and gain > 0 were expected")

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * x.clamp(min=0) ** self.gamma

    def pinv(self, y: Tensor, iterations: int = 0) -> Tensor:
        return (y.clamp(min=0) / self.gain) ** (1 / self.gamma)


@dataclass(frozen=True, eq=False)
class Haze(Tone):
    """tr in (0, 1] and light: numbers, or tensors that broadcast against x, batch axis first."""

    tr: float | Tensor = 0.5
    light: float | Tensor = 0.8

    def __post_init__(self) -> None:
        low, high = (float(v) for v in torch.aminmax(torch.as_tensor(self.tr)))
        if not 0 < low <= high <= 1:
            raise ValueError(f"a transmission in (0, 1] was expected; got [{low:g}, {high:g}]")

    def forward(self, x: Tensor) -> Tensor:
        tr = align(self.tr, x)
        return x * tr + align(self.light, x) * (1 - tr)

    def pinv(self, y: Tensor, iterations: int = 0) -> Tensor:
        tr = align(self.tr, y)
        return (y - align(self.light, y) * (1 - tr)) / tr

    def repeat(self, n: int) -> Operator:
        return Haze(each(self.tr, n), each(self.light, n))


@dataclass(frozen=True, eq=False)
class GammaBlur(Tone):
    """blur: any of gain 1 with taps >= 0."""

    blur: Operator
    gamma: float = 2.2

    def forward(self, x: Tensor) -> Tensor:
        light = self.blur(x.clamp(min=0) ** self.gamma)
        return light.clamp(min=1e-6) ** (1 / self.gamma)  # the slope at black is infinite; 1e-6 is half a level of 255
