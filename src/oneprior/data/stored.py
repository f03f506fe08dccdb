"""A picture file with other pixels: its format, depth, transparency, orientation, profile and resolution stay.

A transparent picture is read as it looks on white, v = w c + (1 - w) with opacity w, rounded. A new v' goes back as the
colour c + (v' - v) / w under the same opacity; where w = 0, c is what it was.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from oneprior.data import zips
from oneprior.data.folder import _pixels, is_deep, upright

ORIENTATION = 0x0112
WRITTEN = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")  # others come back as PNG
SAVED: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}
LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Stored:
    """A picture file; as `Scan`, it says how many samples it holds and how they go back into a file like it."""

    path: Path
    count = 1

    @property
    def suffix(self) -> str:
        return self.path.suffix if self.path.suffix.lower() in WRITTEN else ".png"

    def encode(self, x: np.ndarray, out: Path, exact: bool = False) -> list[tuple[Path, bytes]]:
        """(1, C, H, W) in [0, 1], upright, as a file like this one, by where it goes; of another size, upright, opaque.

        Raises:
            ValueError: a file of several frames, or of 16 bits a colour, which would not come back as it was.
        """
        from PIL import Image

        with zips.stream(self.path) as raw, Image.open(raw) as file:
            if (frames := getattr(file, "n_frames", 1)) > 1:
                raise ValueError(f"{self.path} holds {frames} frames, of which one would come back: split it first")
            if any(";16" in str(tile) for tile in file.tile) and file.mode in ("RGB", "RGBA"):
                raise ValueError(
                    f"{self.path} holds 16 bits a colour, which would come back as 8: store it as 8, or grey"
                )
            form = "PNG" if self.suffix == ".png" else str(file.format)
            mode, deep, turn = file.mode, is_deep(file), file.getexif().get(ORIENTATION, 1)
            kept = {k: v for k, v in file.info.items() if k in ("exif", "icc_profile", "dpi", "compression")}
            image = upright(file)
        v = x[0].clip(0, 1)
        v = np.tensordot(LUMA, v, 1)[None] if len(v) == 3 and image.mode in ("L", "LA", "F") else v
        same = v.shape[1:] == (image.height, image.width)
        alpha = image.getchannel("A") if same and image.mode in ("LA", "RGBA") else None
        if alpha is not None:
            w = np.asarray(alpha)[None] / 255
            before = (
                np.asarray(image.convert("LA" if len(v) == 1 else "RGBA"), float)[..., :-1].transpose(2, 0, 1) / 255
            )
            seen = _pixels(image, len(v), v.shape[1:])
            v = np.where(w > 0, before + (v - seen) / w.clip(1 / 255), before).clip(0, 1)
        a = np.rint(v * (65535 if deep else 255)).astype(np.uint16 if deep else np.uint8)
        made = Image.fromarray(a[0] if len(a) == 1 else np.ascontiguousarray(a.transpose(1, 2, 0)))
        if alpha is not None:
            made.putalpha(alpha)
        if turn != 1 and same:
            made = made.transpose(_undone(turn))
        if turn != 1 and ("exif" not in kept or not same):
            exif = Image.Exif()
            exif.load(kept.get("exif", b""))
            exif[ORIENTATION] = turn if same else 1
            kept["exif"] = exif.tobytes()
        made = made.convert(mode, dither=Image.Dither.NONE) if mode in ("1", "CMYK") else made
        buffer = io.BytesIO()
        made.save(buffer, form, **kept, **SAVED.get(form, {}))
        return [(out, buffer.getvalue())]


def _undone(turn: int) -> Any:
    from PIL.Image import Transpose as T

    own = {2: T.FLIP_LEFT_RIGHT, 3: T.ROTATE_180, 4: T.FLIP_TOP_BOTTOM, 5: T.TRANSPOSE, 7: T.TRANSVERSE}
    return {**own, 6: T.ROTATE_90, 8: T.ROTATE_270}[turn]
