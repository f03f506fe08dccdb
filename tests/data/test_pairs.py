"""Pairs: recipes as pure functions of (seed, index), and two folders with the same names."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from oneprior.data import Degraded, Pairs, Recipe, UnreadableImages, digits, image_pairs
from oneprior.data.degrade import STEPS
from oneprior.operators import Blur


def pictures(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def save(path: Path, size: tuple[int, int] = (8, 8), value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size, value, dtype=np.uint8)).save(path)


@pytest.mark.parametrize("text", ["real", "blur:1-2", "resize:0.3-1.4", "noise:10", "jpeg:30-60", "resize:0.5,noise:5"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_recipe_is_a_pure_function_of_seed_and_index(text: str, channels: int) -> None:
    x, recipe = pictures(4, channels, 24, 17), Recipe.of(text)
    y = recipe(x, 5, [3, 9, 0, 4])
    assert y.shape == x.shape and float(y.min()) >= 0 and float(y.max()) <= 1 and not torch.equal(x, y)
    assert torch.equal(recipe(x[[2, 0]], 5, [0, 3]), y[[2, 0]])  # whatever the batch
    if "-" in text or "noise" in text or text == "real":
        assert not torch.equal(recipe(x, 6, [3, 9, 0, 4]), y) and not torch.equal(recipe(x, 5, [8, 9, 0, 4])[0], y[0])


def test_each_step_does_what_it_says() -> None:
    x = pictures(1, 1, 64, 64) * 0.5 + 0.25
    torch.testing.assert_close(Recipe.of("blur:1.5")(x, 0, [0]), Blur.gaussian(1.5, boundary="replicate")(x))
    n = (Recipe.of("noise:10")(x, 0, [0]) - x).flatten()  # 4096 numbers, none of them clipped
    assert float(n.std()) == pytest.approx(10 / 255, abs=5 * 10 / 255 / (2 * 4096) ** 0.5)
    flat = torch.full((1, 1, 64, 64), 0.5)
    torch.testing.assert_close(Recipe.of("resize:0.25")(flat, 0, [0]), flat)
    assert float(Recipe.of("resize:0.25")(x, 0, [0]).var()) < 0.3 * float(x.var())
    fine, coarse = (float((Recipe.of(f"jpeg:{q}")(x, 0, [0]) - x).square().mean()) for q in (95, 10))
    assert 0 < fine < coarse / 10
    spread = [float((Recipe.of("noise:0-20")(flat, 0, [i]) - flat).std()) * 255 for i in range(200)]
    assert 0 < min(spread) < 1 and 19 < max(spread) < 21 and abs(sum(spread) / 200 - 10) < 5 * 20 / 12**0.5 / 200**0.5


def test_up_and_down_come_in_their_shares() -> None:
    """Real-ESRGAN's .2, .7, .1, by the second uniform number of the step; the first is the place in the range."""
    x = pictures(1, 1, 16, 16)
    for u, sides in ((0.19, (40, 40)), (0.21, (10, 10)), (0.89, (10, 10)), (0.91, (16, 16))):
        assert tuple(STEPS["resize"][0](x, 0.25, 4.0, [0.5, u], (16, 16)).shape[2:]) == sides
    assert STEPS["resize"][0](x, 0.25, 0.75, [0.5, 0.0], (16, 16)).shape[-1] == 8  # a range below 1 goes down always


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rain:1", "a step 'rain' is not known; one of blur, resize, noise, jpeg"),
        ("blur", "'blur' is no NAME:LO-HI"),
        ("jpeg:30-200", "jpeg:30-200: a range within 1 to 95"),
        ("noise:9-3", "noise:9-3: a range"),
    ],
)
def test_recipes_that_are_none(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Recipe.of(text)


def test_degraded_source() -> None:
    source = Degraded(digits("train"), Recipe.of("noise:40"), seed=1, copies=3)
    n = len(digits("train"))
    assert len(source) == 3 * n
    a, b = source.batch([7, 7 + n]), source.batch([7 + n])
    assert torch.equal(a["x"][0], a["x"][1]) and a["label"][0] == a["label"][1]
    assert not torch.equal(a["y"][0], a["y"][1]) and torch.equal(a["y"][1], b["y"][0])
    with pytest.raises(IndexError, match=f"index {3 * n}"):
        source.batch([3 * n])


def test_folders_are_paired_by_name(tmp_path: Path) -> None:
    for i in range(10):
        save(tmp_path / f"clean/{i}.png", value=10 * i)
        save(tmp_path / f"rainy/{i}.bmp", value=10 * i + 5)  # another ending
    source = image_pairs(tmp_path / "clean", tmp_path / "rainy")
    assert isinstance(source, Pairs) and source.facts.name == "clean"
    batch = source.batch(range(10))
    torch.testing.assert_close(batch["y"] - batch["x"], torch.full((10, 1, 8, 8), 5 / 255))
    parts = [image_pairs(tmp_path / "clean", tmp_path / "rainy", split=s) for s in ("train", "test")]
    assert [len(p) for p in parts] == [8, 2]
    held = parts[1].batch([0, 1])
    torch.testing.assert_close(held["y"] - held["x"], torch.full((2, 1, 8, 8), 5 / 255))


def test_what_does_not_pair_is_named(tmp_path: Path) -> None:
    clean, rainy = tmp_path / "clean", tmp_path / "rainy"
    for i in range(5):
        save(clean / f"{i}.png")
        save(rainy / f"{i}.png")
    save(clean / "lonely.png")
    with pytest.raises(ValueError, match=r"1 pictures have no partner of the same name(.|\n)*lonely\.png"):
        image_pairs(clean, rainy)
    assert len(image_pairs(clean, rainy, skip_bad=True)) == 5
    (clean / "lonely.png").unlink()
    (rainy / "3.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(UnreadableImages, match=r"1 of 5 pictures(.|\n)*3\.png"):
        image_pairs(clean, rainy)
    assert len(image_pairs(clean, rainy, skip_bad=True)) == 4
    save(rainy / "3.png", (4, 4))
    with pytest.raises(ValueError, match=r"partners differ in size(.|\n)*3: \(8, 8\) and \(4, 4\)"):
        image_pairs(clean, rainy, size=8)
    save(rainy / "3.png")
    save(rainy / "3.bmp")
    with pytest.raises(ValueError, match="differ in their ending alone"):
        image_pairs(clean, rainy)
    with pytest.raises(ValueError, match=r"pairs have one shape: 5 of \(1, 8, 8\) and 1437"):
        Pairs(image_pairs(clean, clean), digits("train"))
