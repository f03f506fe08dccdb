"""Clips: moving digits and scenes made on the fly; GIFs, video files and folders of pictures."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from oneprior.data import Source, open_source
from oneprior.data.clips import animation, clip_folder
from oneprior.data.digits import digits
from oneprior.data.folder import UnreadableImages
from oneprior.data.moving import MOTIONS, MovingDigits, MovingScenes, bounce, seen

VIDEO = importlib.util.find_spec("av") is not None


def test_a_sprite_is_seen_where_it_is() -> None:
    sprite = np.arange(1.0, 10.0).reshape(1, 3, 3)
    whole = seen(sprite, np.array([[[2.0, 1.0], [0.0, 0.5]]]), 6)
    assert np.array_equal(whole[0, 0, 2:5, 1:4], sprite[0]) and whole[0, 0].sum() == sprite.sum()
    assert np.allclose(whole[0, 1, :3, 1:3], (sprite[0, :, :2] + sprite[0, :, 1:]) / 2), "half way between pixels"
    p = bounce(np.array([[1.0, 2.0]]), np.array([[0.75, -1.5]]), 40, 4.0)[0]
    assert p.min() >= 0 and p.max() <= 4 and np.allclose(p[:3, 0], [1.0, 1.75, 2.5])
    assert set(np.round(np.abs(np.diff(p[:, 1])), 9)) <= {1.5, 1.0, 0.5, 0.0}, "one speed, but where a wall is between"


@pytest.mark.parametrize("source", [MovingDigits(6, 14), MovingScenes(6, 18), MovingDigits(5, 16, number=2)])
def test_a_clip_is_a_function_of_its_index(source: Source) -> None:
    facts, batch = source.facts, source.batch([5, 70, 5])
    x = batch["x"]
    assert x.shape == (3, *facts.shape) and x.dtype == torch.float32
    assert float(x.min()) >= 0 and float(x.max()) <= 1 and torch.equal(x[0], x[2]) and not torch.equal(x[0], x[1])
    assert torch.equal(source.batch([70])["x"][0], x[1])
    with pytest.raises(IndexError, match="outside 0"):
        source.batch([len(source)])


def test_digits_move_as_wholes_and_splits_share_none() -> None:
    source = MovingDigits(8, 20, split="test")
    x, label = (source.batch(range(40))[k] for k in ("x", "label"))
    stored, names = (digits("test").batch(range(360))[k] for k in ("x", "label"))
    mass = x.sum((2, 3, 4))
    assert (mass - mass[:, :1]).abs().max() < 1e-3, "no ink is lost"
    same = (mass[:, :1] - stored.sum((1, 2, 3))).abs() < 1e-3
    assert all(int(label[i]) in names[same[i]].tolist() for i in range(40))
    still = MovingDigits(3, 20, speed=0.0).batch(range(4))["x"]
    assert torch.equal(still[:, 0], still[:, 2])
    slow, every = (MovingDigits(5, 40, every=k).batch([3])["x"] for k in (1, 2))
    torch.testing.assert_close(slow[:, ::2], every[:, :3])
    with pytest.raises(ValueError, match="9 x 9 or more"):
        MovingDigits(size=8)


def test_scenes_say_what_happens_in_them() -> None:
    batch = MovingScenes(5, 24).batch(range(64))
    x, label, text = batch["x"], batch["label"], batch["text"]
    moved = (x[:, 1:] - x[:, :-1]).abs().flatten(1).amax(1) > 0.05
    for i in range(64):
        front, _, back = str(text[i]).partition(" before ")
        assert front.endswith(MOTIONS[int(label[i])]) and front.startswith("a ") and " that " in back
        assert bool(moved[i]) or "rests" in str(text[i])
    assert not bool(moved[[i for i in range(64) if str(text[i]).count("rests") == 2]].any())
    assert set(label.tolist()) == set(range(4))


def gif(path: Path, n: int, duration: int = 100, size: int = 8) -> Tensor:
    x = torch.rand(n, 1, size, size, generator=torch.Generator().manual_seed(n))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(animation(x, ".gif", 1000 / duration))
    return (x * 255).round() / 255


def test_gifs_come_back_as_they_went(tmp_path: Path) -> None:
    x, y = gif(tmp_path / "a.gif", 7), gif(tmp_path / "b.gif", 5)
    source = clip_folder(tmp_path, 3)
    assert source.facts.shape == (3, 1, 8, 8) and len(source) == 3 and source.facts.levels == 256
    got = source.batch([0, 1, 2])["x"]
    for row, want in zip(got, (x[:3], x[3:6], y[:3]), strict=True):
        torch.testing.assert_close(row, want, rtol=0, atol=1e-6)
    resampled = clip_folder(tmp_path, 3, rate=5.0)  # every second frame of ten a second
    torch.testing.assert_close(resampled.batch([0])["x"][0], x[[0, 2, 4]], rtol=0, atol=1e-6)
    assert isinstance(open_source(tmp_path, frames=3), type(source))


def test_folders_of_pictures_are_clips_and_their_parents_classes(tmp_path: Path) -> None:
    x = torch.rand(2, 4, 8, 6)
    for k, kind in enumerate(("walks", "waves")):
        (tmp_path / kind / "one").mkdir(parents=True)
        for f in range(4):
            a = (x[k, f] * 255).round().byte().numpy()
            Image.fromarray(a).save(tmp_path / kind / "one" / f"{f:03d}.png")
    source = clip_folder(tmp_path, 2)
    assert source.facts.classes == ("walks", "waves") and len(source) == 4
    batch = source.batch(range(4))
    assert batch["label"].tolist() == [0, 0, 1, 1] and batch["x"].shape == (4, 2, 1, 8, 6)
    torch.testing.assert_close(batch["x"][3, :, 0], (x[1, 2:] * 255).round() / 255, rtol=0, atol=1e-6)
    assert clip_folder(tmp_path, 2, size=4, channels=3).batch([0])["x"].shape == (1, 2, 3, 4, 4)


def test_clips_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no clips in .*\.gif"):
        clip_folder(tmp_path, 4)
    gif(tmp_path / "long.gif", 9)
    gif(tmp_path / "short.gif", 3)
    with pytest.raises(UnreadableImages, match=r"1 of 2 clips(.|\n)*short.gif: 3 frames, shorter than the window of 4"):
        clip_folder(tmp_path, 4)
    assert len(clip_folder(tmp_path, 4, skip_bad=True)) == 2
    (tmp_path / "short.gif").unlink()
    (tmp_path / "broken.gif").write_bytes((tmp_path / "long.gif").read_bytes()[:40])
    with pytest.raises(UnreadableImages, match=r"broken.gif: "):
        clip_folder(tmp_path, 4)
    (tmp_path / "broken.gif").unlink()
    gif(tmp_path / "slow.gif", 9, duration=200)
    with pytest.raises(ValueError, match=r"several frame rates .*1 of 10.0, 1 of 5.0.*rate="):
        clip_folder(tmp_path, 4)
    (tmp_path / "slow.gif").unlink()
    gif(tmp_path / "large.gif", 9, size=10)
    with pytest.raises(ValueError, match="2 sizes"):
        clip_folder(tmp_path, 4)
    with pytest.raises(ValueError, match="frames = 0"):
        clip_folder(tmp_path, 0)
    with pytest.raises(ValueError, match=r"\.gif or \.mp4; got '\.avi'"):
        animation(torch.zeros(2, 1, 4, 4), ".avi")
    with pytest.raises(ValueError, match="a clip has shape"):
        animation(torch.zeros(2, 4, 4))


def test_rows_hold_clips_of_several_lengths_and_pictures(tmp_path: Path) -> None:
    """Every frame of every part is in exactly one row, but for singles that fill what is left."""
    x, y, z = (gif(tmp_path / f"{n}.gif", n) for n in (7, 3, 2))
    Image.fromarray((draw_picture := (torch.rand(8, 8) * 255).round().byte()).numpy()).save(tmp_path / "p.png")
    source = clip_folder(tmp_path, 4, pack=True)
    batch, picture = source.batch(range(4)), draw_picture.float()[None, None] / 255
    assert source.facts.shape == (4, 1, 8, 8) and len(source) == 4
    assert batch["segments"].tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 1, 2]]
    wanted = ((x[:4],), (y, picture), (x[4:], z[:1]), (z, z[1:], y[:1]))
    for row, want in zip(batch["x"], wanted, strict=True):
        torch.testing.assert_close(row, torch.cat(want), rtol=0, atol=1e-6)
    parts = [clip_folder(tmp_path, 4, pack=True, split=split) for split in ("train", "test")]
    assert sum(len(p) for p in parts) >= 2
    with pytest.raises(ValueError, match="split is 'half'"):
        clip_folder(tmp_path, 4, pack=True, split="half")
    for name, frames in (("moving-digits", 4), (str(tmp_path), None)):
        with pytest.raises(ValueError, match="pack puts the clips of a folder in rows of frames=N"):
            open_source(name, frames=frames, pack=True)


@pytest.mark.skipif(not VIDEO, reason="PyAV, the extra `video`, is not installed")
def test_video_files(tmp_path: Path) -> None:
    x = MovingDigits(12, 32, speed=1.0).batch([1])["x"][0]
    (tmp_path / "a.mp4").write_bytes(animation(x, ".mp4", 10))
    source = clip_folder(tmp_path, 6)
    assert source.facts.shape == (6, 1, 32, 32) and len(source) == 2
    got = source.batch([1])["x"][0]
    assert (got - x[6:]).abs().mean() < 0.02 and torch.corrcoef(torch.stack([got.flatten(), x[6:].flatten()]))[
        0, 1
    ] > 0.99
    (tmp_path / "b.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:300])
    with pytest.raises(UnreadableImages, match=r"1 of 2 clips(.|\n)*b.mp4: "):
        clip_folder(tmp_path, 6)


def test_names_and_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert open_source("moving-digits", frames=4, size=12).facts.shape == (4, 1, 12, 12)
    assert open_source("moving-scenes").facts.shape == (8, 3, 24, 24)
    with pytest.raises(ValueError, match="frames=4 is for clips"):
        open_source("digits", frames=4)
    gif(tmp_path / "a.gif", 5)
    import sys

    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "b.mp4").write_bytes(b"any")
    with pytest.raises(ImportError, match=r"oneprior\[video\]"):
        clip_folder(tmp_path, 2)
