r"""Likeness of two pictures, one value per picture.

    PSNR = 10 log10(L^2 / mean (x - y)^2), in dB, L the data range
    SSIM = mean of (2 mu_x mu_y + c1)(2 s_xy + c2) / ((mu_x^2 + mu_y^2 + c1)(s_x^2 + s_y^2 + c2))

with local means and covariances under an 11 x 11 Gaussian of standard deviation 1.5, c1 = (0.01 L)^2, c2 = (0.03 L)^2,
windows that lie wholly inside the picture, and the mean over channels.
Image quality assessment (Wang et al., 2004), https://doi.org/10.1109/TIP.2003.819861
"""

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from oneprior.metrics.features import Array, float64


def _pictures(x: Array, y: Array, data_range: float) -> tuple[Tensor, Tensor]:
    a, b = float64(x), float64(y)
    if a.shape != b.shape or a.ndim < 2:
        raise ValueError(f"x has shape {tuple(a.shape)} and y {tuple(b.shape)}; expected two equal shapes (B, ...)")
    if not data_range > 0:
        raise ValueError(f"data_range is {data_range}; expected max - min of the units: 1 for [0, 1], 255 for bytes")
    return a, b.to(a.device)


def psnr(x: Array, y: Array, *, data_range: float) -> Tensor:
    """Peak signal-to-noise ratio in dB of each sample of x, y (B, ...): float64 (B,), infinite for equal ones.

    data_range: largest minus smallest possible value, 1 for pictures in [0, 1].
    """
    a, b = _pictures(x, y, data_range)
    return 10 * torch.log10(data_range**2 / (a - b).square().flatten(1).mean(1))


def ssim(x: Array, y: Array, *, data_range: float, window: int = 11, sigma: float = 1.5) -> Tensor:
    """Structural similarity of each picture of x, y (B, C, H, W): float64 (B,), at most 1.

    data_range: as of `psnr`. window, sigma: odd side and standard deviation of the Gaussian window, in pixels.
    """
    a, b = _pictures(x, y, data_range)
    if a.ndim != 4:
        raise ValueError(f"pictures have shape {tuple(a.shape)}; expected (B, C, H, W)")
    if window % 2 != 1 or window > min(a.shape[2:]):
        raise ValueError(
            f"an odd window <= the picture is needed; got window {window} on {a.shape[2]} x {a.shape[3]} pixels"
        )
    line = torch.arange(window, device=a.device, dtype=a.dtype) - window // 2
    line = torch.exp(line.square() / (-2 * sigma**2))
    line = line / line.sum()

    def local(z: Tensor) -> Tensor:
        z = z.flatten(0, 1)[:, None]
        return conv2d(conv2d(z, line.view(1, 1, -1, 1)), line.view(1, 1, 1, -1))

    mu_x, mu_y = local(a), local(b)
    var_x, var_y, cov = local(a * a) - mu_x**2, local(b * b) - mu_y**2, local(a * b) - mu_x * mu_y
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    likeness = (2 * mu_x * mu_y + c1) * (2 * cov + c2) / ((mu_x**2 + mu_y**2 + c1) * (var_x + var_y + c2))
    return likeness.reshape(len(a), -1).mean(1)
