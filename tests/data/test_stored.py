"""A picture file with other pixels: what is not its pixels stays."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from oneprior.data.folder import _open, _pixels, upright
from oneprior.data.stored import Stored

RNG = np.random.default_rng(0)


def noise(*shape: int, high: int = 256) -> np.ndarray:
    return RNG.integers(0, high, shape).astype(np.uint8 if high == 256 else np.uint16)


def encoded(path: Path, channels: int) -> bytes:
    """The file after its own pixels went through as a result would."""
    image = _open(path)
    x = _pixels(image, channels, (image.height, image.width))
    ((_, data),) = Stored(path).encode(x[None].astype(float), path.with_name("out"))
    return data


def trip(path: Path, channels: int) -> Image.Image:
    again = Image.open(io.BytesIO(encoded(path, channels)))
    again.load()
    return again


PICTURES: dict[str, tuple[Image.Image, str, int]] = {
    "grey": (Image.fromarray(noise(6, 9)), "a.png", 1),
    "grey through a prior of colour": (Image.fromarray(noise(6, 9)), "a.png", 3),
    "colour": (Image.fromarray(noise(6, 9, 3)), "a.bmp", 3),
    "16-bit TIFF": (Image.fromarray(noise(6, 9, high=65536)), "a.tiff", 1),
    "16-bit TIFF, packed": (Image.fromarray(noise(6, 9, high=65536)), "b.tif", 1),
    "16-bit PNG": (Image.fromarray(noise(6, 9, high=65536)), "a.png", 1),
    "grey and alpha": (Image.fromarray(noise(6, 9, 2)), "a.png", 1),
    "colour and alpha": (Image.fromarray(noise(6, 9, 4)), "a.png", 3),
    "alpha, WebP": (Image.fromarray(noise(6, 9, 4)), "a.webp", 3),
    "black and white": (Image.fromarray(noise(6, 9)).convert("1"), "a.png", 1),
}


@pytest.mark.parametrize("name", PICTURES)
def test_format_depth_and_alpha_stay(tmp_path: Path, name: str) -> None:
    image, file, channels = PICTURES[name]
    how: dict[str, Any] = {"lossless": True, "exact": True} if file.endswith("webp") else {"dpi": (300, 300)}
    how |= {"compression": "tiff_lzw"} if "packed" in name else {}
    image.save(tmp_path / file, **how)
    before, after = Image.open(tmp_path / file), trip(tmp_path / file, channels)
    assert (after.format, after.mode, after.size) == (before.format, before.mode, before.size)
    assert after.info.get("dpi") == before.info.get("dpi") and after.info.get("compression") == before.info.get(
        "compression"
    )
    a, b = np.asarray(before, float), np.asarray(after, float)
    if image.mode in ("LA", "RGBA"):
        np.testing.assert_array_equal(a[..., -1], b[..., -1])
        seen = a[..., -1:] > 0
        np.testing.assert_array_equal(a[..., :-1] * seen, b[..., :-1] * seen)
        if after.format == "PNG":
            np.testing.assert_array_equal(a, b)  # what nobody sees, too
    else:
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("file", ["a.png", "a.tif"])
def test_a_turn_stays(tmp_path: Path, turn: int, file: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    image = Image.fromarray(noise(6, 9))
    image.save(tmp_path / file, exif=exif)
    (tmp_path / f"after-{file}").write_bytes(encoded(tmp_path / file, 1))
    before, after = (Image.open(io.BytesIO(p.read_bytes())) for p in (tmp_path / file, tmp_path / f"after-{file}"))
    assert after.getexif().get(0x0112, 1) == turn and after.size == before.size
    np.testing.assert_array_equal(np.asarray(upright(after)), np.asarray(upright(before)))
    np.testing.assert_array_equal(np.asarray(_open(tmp_path / file)), np.asarray(upright(before)))


def test_another_size_is_upright_and_opaque(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(6, 9, 4)).save(tmp_path / "a.png", exif=exif)
    ((_, data),) = Stored(tmp_path / "a.png").encode(np.full((1, 3, 4, 5), 0.5), tmp_path / "b.png")
    after = Image.open(io.BytesIO(data))
    assert after.size == (5, 4) and after.mode == "RGB" and after.getexif().get(0x0112, 1) == 1


def test_what_would_not_come_back_is_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(noise(4, 4)) for _ in range(3)]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=r"a\.tif holds 3 frames, of which one would come back"):
        Stored(tmp_path / "a.tif").encode(np.zeros((1, 1, 4, 4)), tmp_path / "b.tif")
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "c.tif", noise(4, 4, 3, high=65536), photometric="rgb")
    with pytest.raises(ValueError, match="16 bits a colour"):
        Stored(tmp_path / "c.tif").encode(np.zeros((1, 3, 4, 4)), tmp_path / "d.tif")
