"""PSNR and SSIM against scikit-image."""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from oneprior.metrics import psnr, ssim


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    base = rng.random((4, 3, 4, 5)).repeat(8, axis=2).repeat(6, axis=3)
    return base, np.clip(base + 0.1 * rng.standard_normal(base.shape), 0, 1)


def test_psnr_equals_scikit_image(pictures):
    x, y = pictures
    values = psnr(x, torch.from_numpy(y), data_range=1)
    assert values.shape == (4,)
    expected = [peak_signal_noise_ratio(a, b, data_range=1) for a, b in zip(x, y, strict=True)]
    assert values.tolist() == pytest.approx(expected, rel=1e-12)
    assert psnr(255 * x, 255 * y, data_range=255).tolist() == pytest.approx(expected, rel=1e-12)
    assert psnr(x, x, data_range=1).tolist() == [np.inf] * 4
    byte = (255 * x).astype(np.uint8)
    assert psnr(byte, 255 - byte, data_range=255).tolist() == pytest.approx(  # no wrap-around of bytes
        [peak_signal_noise_ratio(a, 255 - a, data_range=255) for a in byte]
    )


@pytest.mark.parametrize(("window", "sigma"), [(11, 1.5), (9, 1.0)])
def test_ssim_equals_scikit_image(pictures, window, sigma):
    x, y = pictures
    settings = dict(gaussian_weights=True, sigma=sigma, use_sample_covariance=False)
    expected = [
        structural_similarity(a, b, data_range=1, channel_axis=0, **settings) for a, b in zip(x, y, strict=True)
    ]
    assert ssim(x, y, data_range=1, window=window, sigma=sigma).tolist() == pytest.approx(expected, rel=1e-9)
    assert ssim(x, x, data_range=1).tolist() == pytest.approx([1.0] * 4, abs=1e-12)


def test_bad_pictures_are_refused(pictures):
    x, y = pictures
    with pytest.raises(ValueError, match=r"x has shape \(4, 3, 32, 30\) and y \(3, 3, 32, 30\)"):
        psnr(x, y[:3], data_range=1)
    with pytest.raises(ValueError, match="data_range is 0"):
        psnr(x, y, data_range=0)
    with pytest.raises(ValueError, match="window 11 on 8 x 8 pixels"):
        ssim(x[..., :8, :8], y[..., :8, :8], data_range=1)
    with pytest.raises(ValueError, match=r"expected \(B, C, H, W\)"):
        ssim(x[0], y[0], data_range=1)
