"""A folder of pictures: each kind of file, each clumsy folder."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from oneprior.data import Source, UnreadableImages, image_folder, in_memory


def noise(*shape, seed=0, high=256):
    dtype = np.uint8 if high == 256 else np.uint16
    return np.random.default_rng(seed).integers(0, high, shape).astype(dtype)


def put(array, path, **settings):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(path, **settings)


def one(path, **settings) -> torch.Tensor:
    return image_folder(path, **settings).batch([0])["x"][0]


def test_class_folders(tmp_path):
    pictures = {name: noise(6, 5, 3, seed=i) for i, name in enumerate(("cat/b", "cat/a", "dog/x"))}
    for name, array in pictures.items():
        put(array, tmp_path / f"{name}.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "cat" / "notes.txt").write_text("not a picture")
    (tmp_path / "cat" / "._a.png").write_bytes(b"resource fork")
    (tmp_path / ".cache").mkdir()
    source = image_folder(tmp_path)
    assert isinstance(source, Source)
    assert source.facts.shape == (3, 6, 5) and source.facts.classes == ("cat", "dog")
    assert source.facts.levels == 256 and source.facts.name == tmp_path.name and len(source) == 3
    batch = source.batch([2, 0])
    assert batch["label"].tolist() == [1, 0]
    for x, name in zip(batch["x"], ("dog/x", "cat/a"), strict=True):
        np.testing.assert_array_equal(x.numpy() * 255, pictures[name].transpose(2, 0, 1))
    assert image_folder(tmp_path, labels=False).facts.classes is None
    again = pickle.loads(pickle.dumps(source))
    assert torch.equal(again.batch([1])["x"], source.batch([1])["x"])
    assert torch.equal(in_memory(source).batch([1, 2])["x"], source.batch([1, 2])["x"])


@pytest.mark.parametrize(
    ("suffix", "settings", "error"),
    [(".png", {}, 0), (".webp", {"lossless": True}, 0), (".bmp", {}, 0), (".JPG", {"quality": 100}, 0.05)],
)
def test_formats(tmp_path, suffix, settings, error):
    array = np.kron(noise(4, 4, 3) // 2 + 64, np.ones((8, 8, 1), np.uint8))
    put(array, tmp_path / f"a{suffix}", **settings)
    x = one(tmp_path)
    assert x.dtype == torch.float32 and x.shape == (3, 32, 32)
    assert np.abs(x.numpy() - array.transpose(2, 0, 1) / 255).mean() <= error + 1e-7


def test_grey_and_colour(tmp_path):
    grey = noise(4, 4)
    put(grey, tmp_path / "grey" / "a.png")
    assert torch.equal(one(tmp_path / "grey"), torch.from_numpy(grey)[None] / 255)
    assert torch.equal(one(tmp_path / "grey", channels=3), (torch.from_numpy(grey) / 255).expand(3, 4, 4))
    put(np.full((4, 4, 3), (255, 0, 0), np.uint8), tmp_path / "red" / "a.png")
    assert one(tmp_path / "red", channels=1).mean().item() == pytest.approx(0.299, abs=0.5 / 255)
    put(Image.fromarray(grey > 99), tmp_path / "bits" / "a.png")
    assert torch.equal(one(tmp_path / "bits"), torch.from_numpy(grey > 99)[None].float())
    put(grey, tmp_path / "mixed" / "a.png")
    put(np.zeros((4, 4, 3), np.uint8), tmp_path / "mixed" / "b.png")
    assert image_folder(tmp_path / "mixed").facts.shape == (3, 4, 4)


def test_transparency_is_composited_on_white(tmp_path):
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[..., 0], rgba[..., 3] = 200, [[255, 0], [51, 102]]
    put(rgba, tmp_path / "rgba" / "a.png")
    alpha = rgba[..., 3] / 255
    x = one(tmp_path / "rgba").numpy()
    assert np.abs(x[0] - (alpha * 200 / 255 + 1 - alpha)).max() < 0.6 / 255
    assert np.abs(x[1] - (1 - alpha)).max() < 0.6 / 255
    put(Image.fromarray(noise(2, 2)), tmp_path / "grey" / "a.png", transparency=int(noise(2, 2)[0, 1]))
    x = one(tmp_path / "grey")
    assert x.shape == (1, 2, 2) and x[0, 0, 1] == 1


def test_palettes(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8)).convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    put(image, tmp_path / "plain" / "a.png")
    assert one(tmp_path / "plain")[:, 0, 1].tolist() == [0, 1, 0]
    put(image, tmp_path / "clear" / "a.png", transparency=bytes([255, 0, 255]))  # green is transparent
    x = one(tmp_path / "clear")
    assert x[:, 0, 1].tolist() == [1, 1, 1] and x[:, 1, 0].tolist() == [0, 0, 1]


def test_sixteen_bits_keep_their_depth(tmp_path):
    deep = noise(16, 16, high=65536)
    put(deep, tmp_path / "a.png")
    x = one(tmp_path)
    np.testing.assert_array_equal(x[0].numpy(), deep.astype(np.float32) / np.float32(65535))
    assert image_folder(tmp_path).facts.levels is None
    assert one(tmp_path, channels=3, size=4).shape == (3, 4, 4)
    small = one(tmp_path, size=4)
    assert small.min() >= 0 and small.max() <= 1 and small.mean().item() == pytest.approx(x.mean().item(), abs=0.05)


def test_floats_are_refused_as_pictures(tmp_path):
    put(Image.fromarray(np.ones((4, 4), np.float32)), tmp_path / "a.tiff")
    with pytest.raises(UnreadableImages, match=r"a.tiff: 32-bit pixels \(mode F\) state no range"):
        image_folder(tmp_path)


@pytest.mark.parametrize(
    ("turn", "undo"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (6, lambda a: np.rot90(a, -1)),
        (8, np.rot90),
    ],
)
def test_exif_turn_is_applied(tmp_path, turn, undo):
    array = noise(4, 6, 3)
    exif = Image.Exif()
    exif[0x0112] = turn
    put(array, tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(one(tmp_path).numpy() * 255, undo(array).transpose(2, 0, 1))


def test_sizes_are_brought_to_one(tmp_path):
    ramp = np.tile(np.arange(0, 240, 2, dtype=np.uint8), (40, 1))  # 40 x 120, brightness 0 .. 238
    put(ramp, tmp_path / "wide.png")
    put(ramp.T.copy(), tmp_path / "tall.png")
    put(np.full((64, 64), 119, np.uint8), tmp_path / "square.png")
    with pytest.raises(ValueError, match=r"pictures of 3 sizes.*1 of 40 x 120.*pass size="):
        image_folder(tmp_path)
    x = image_folder(tmp_path, size=10).batch([0, 1, 2])["x"]  # square, tall, wide
    assert x.shape == (3, 1, 10, 10)
    centre = ramp[0, 40:80].reshape(10, 4).mean(1) / 255  # the middle square, every 4 columns averaged
    assert np.abs(x[2, 0].mean(0).numpy() - centre).max() < 1.5 / 255
    assert torch.equal(x[1, 0].T, x[2, 0])
    assert image_folder(tmp_path, size=(8, 24)).facts.shape == (1, 8, 24)
    # antialiased: a fine checkerboard becomes grey, not stripes
    put((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8), tmp_path / "fine" / "a.png")
    assert (one(tmp_path / "fine", size=8) - 0.5).abs().max() < 0.02


def test_unreadable_pictures_are_named_and_counted(tmp_path):
    for i in range(3):
        put(noise(32, 32, 3, seed=i), tmp_path / f"good{i}.png")
    whole = (tmp_path / "good0.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "zero.webp").touch()
    with pytest.raises(UnreadableImages, match="3 of 6 pictures") as caught:
        image_folder(tmp_path)
    assert {path.name for path in caught.value.files} == {"cut.png", "text.jpg", "zero.webp"}
    assert all(name in str(caught.value) for name in ("cut.png", "text.jpg", "zero.webp", "skip_bad=True"))
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert len(image_folder(tmp_path, skip_bad=True)) == 3
    source = image_folder(tmp_path, skip_bad=True)
    (tmp_path / "good1.png").write_bytes(whole[:100])  # spoiled after it was opened
    with pytest.raises(UnreadableImages, match=r"good1\.png"):
        source.batch([0, 1])
    for i in range(3):
        (tmp_path / f"good{i}.png").unlink()
    with pytest.raises(UnreadableImages, match="3 of 3"):
        image_folder(tmp_path, skip_bad=True)


def test_clumsy_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*missing"):
        image_folder(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match=r"no pictures in .*: it holds nothing; expected .*\.png"):
        image_folder(tmp_path)
    (tmp_path / "a.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"it holds 1 \.txt"):
        image_folder(tmp_path)
    with pytest.raises(NotADirectoryError, match=r"a\.txt is a file"):
        image_folder(tmp_path / "a.txt")
    put(noise(4, 4), tmp_path / "loose.png")
    with pytest.raises(ValueError, match="no subfolder with pictures"):
        image_folder(tmp_path, labels=True)
    put(noise(4, 4), tmp_path / "cats" / "a.png")
    with pytest.raises(ValueError, match=r"1 pictures beside the subfolders cats.*labels=False"):
        image_folder(tmp_path)
    assert len(image_folder(tmp_path, labels=False)) == 2
    settings: list[dict[str, Any]] = [{"channels": 2}, {"size": 0}, {"size": (4, 0)}, {"split": "val"}]
    for bad in settings:
        with pytest.raises(ValueError, match=f"{next(iter(bad))} is"):
            image_folder(tmp_path / "cats", **bad)


def test_one_subfolder_is_no_class(tmp_path):
    put(noise(4, 4), tmp_path / "images" / "a.png")
    assert image_folder(tmp_path).facts.classes is None
    assert image_folder(tmp_path, labels=True).facts.classes == ("images",)


def test_splits(tmp_path):
    for i in range(10):
        put(noise(4, 4, seed=i), tmp_path / "flat" / f"{i}.png")
        put(noise(4, 4, seed=i), tmp_path / "tree" / ("train" if i < 7 else "val") / "ab"[i % 2] / f"{i}.png")
    assert [len(image_folder(tmp_path / "flat", split=s)) for s in ("train", "test", "all")] == [8, 2, 10]
    tree = {s: image_folder(tmp_path / "tree", split=s) for s in ("train", "test", "all")}
    assert [len(s) for s in tree.values()] == [7, 3, 10]
    assert {s.facts.classes for s in tree.values()} == {("a", "b")}
    assert tree["test"].batch(range(3))["label"].tolist() == [0, 1, 1]
    put(noise(4, 4), tmp_path / "tree" / "val" / "c" / "x.png")
    with pytest.raises(ValueError, match="class 'c', which training does not have"):
        image_folder(tmp_path / "tree", split="test")
