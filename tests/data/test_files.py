"""Array files, idx files, and names resolved to sources."""

import gzip
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from oneprior.data import Source, array_file, arrays, idx_files, open_source, read_idx


def rng():
    return np.random.default_rng(0)


def save(path, array):
    np.save(path, array)
    return path


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((5, 6, 7), (1, 6, 7)), ((5, 6, 7, 3), (3, 6, 7)), ((5, 3, 6, 7), (3, 6, 7)), ((5, 6, 7, 1), (1, 6, 7))],
)
def test_layouts(tmp_path, shape, expected):
    array = rng().integers(0, 256, shape).astype(np.uint8)
    source = array_file(save(tmp_path / "a.npy", array))
    assert isinstance(source, Source) and source.facts.shape == expected and source.facts.levels == 256
    x = source.batch([4, 0])["x"]
    want = array if len(shape) == 4 and shape[1] == 3 else array.reshape(5, 6, 7, -1).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(x.numpy(), want[[4, 0]].astype(np.float32) / np.float32(255))
    assert x.is_contiguous()


def test_unclear_layout_is_asked_for(tmp_path):
    path = save(tmp_path / "a.npy", np.zeros((5, 3, 6, 3), np.uint8))
    with pytest.raises(ValueError, match=r"shape \(5, 3, 6, 3\): say where the channels are with layout="):
        array_file(path)
    assert array_file(path, layout="NCHW").facts.shape == (3, 6, 3)
    assert array_file(path, layout="NHWC").facts.shape == (3, 3, 6)
    with pytest.raises(ValueError, match="layout is 'HWC'"):
        array_file(path, layout="HWC")


def test_depths(tmp_path):
    deep = array_file(save(tmp_path / "a.npy", np.array([[[0, 65535]]], np.uint16)))
    assert deep.facts.levels == 65536 and deep.batch([0])["x"].flatten().tolist() == [0, 1]
    bits = array_file(save(tmp_path / "b.npy", np.array([[[False, True]]])))
    assert bits.facts.levels == 2 and bits.batch([0])["x"].flatten().tolist() == [0, 1]
    half = array_file(save(tmp_path / "c.npy", np.array([[[0, 0.5]]], np.float16)))
    assert half.facts.levels is None and half.batch([0])["x"].flatten().tolist() == [0, 0.5]
    with pytest.raises(ValueError, match=r"holds int64, which states no range.*astype\(numpy.uint8\)"):
        array_file(save(tmp_path / "d.npy", np.zeros((2, 4, 4), np.int64)))


def test_float_ranges(tmp_path):
    path = save(tmp_path / "a.npy", np.array([[[-1, 0, 0.5]]]))
    with pytest.raises(ValueError, match=r"values from -1 to 0.5, outside 0 to 1; .*value_range=\(-1, 1\)"):
        array_file(path)
    assert array_file(path, value_range=(-1, 1)).batch([0])["x"].flatten().tolist() == [0, 0.5, 0.75]
    with pytest.raises(ValueError, match="uint8, from 0 to 255; value_range is for float"):
        array_file(save(tmp_path / "b.npy", np.zeros((1, 2, 2), np.uint8)), value_range=(0, 1))


def test_vectors_keep_their_units(tmp_path):
    array = 100 * rng().standard_normal((6, 4))
    source = array_file(save(tmp_path / "a.npy", array))
    assert source.facts.shape == (4,) and source.facts.levels is None
    np.testing.assert_array_equal(source.batch(range(6))["x"].numpy(), array.astype(np.float32))


def test_nan_is_refused_with_its_index(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "PIECE", 5 * 16)  # five samples at a time
    array = rng().random((30, 4, 4))
    array[17, 2, 2], array[23, 0, 0] = np.nan, np.inf
    with pytest.raises(ValueError, match="NaN or infinity in 2 of 30 samples: index 17, 23;"):
        array_file(save(tmp_path / "a.npy", array))


def test_archives_and_labels(tmp_path):
    images, y = rng().integers(0, 256, (4, 5, 5)).astype(np.uint8), np.array([2, 0, 1, 0])
    np.savez(tmp_path / "a.npz", images=images, labels=y)
    source = array_file(tmp_path / "a.npz")
    assert source.facts.classes == ("0", "1", "2") and source.batch([0, 3])["label"].tolist() == [2, 0]
    np.savez(tmp_path / "b.npz", faces=images, mood=np.array(["sad", "glad", "sad", "calm"]))
    with pytest.raises(KeyError, match=r"faces \(4, 5, 5\), mood \(4,\); name the samples with key="):
        array_file(tmp_path / "b.npz")
    named = array_file(tmp_path / "b.npz", key="faces", labels="mood")
    assert named.facts.classes == ("calm", "glad", "sad") and named.batch(range(4))["label"].tolist() == [2, 1, 2, 0]
    assert array_file(tmp_path / "b.npz", key="faces").facts.classes is None
    with pytest.raises(KeyError, match="'nose' is not there"):
        array_file(tmp_path / "b.npz", key="nose")
    np.save(tmp_path / "y.npy", y)
    plain = save(tmp_path / "c.npy", images)
    for labels in (y, tmp_path / "y.npy", str(tmp_path / "y.npy")):
        assert array_file(plain, labels=labels).batch([0])["label"].item() == 2
    with pytest.raises(KeyError, match="labels='nothing' is neither an array"):
        array_file(plain, labels="nothing")


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (np.zeros((4, 3)), None, r"shape \(4, 3\); expected \(4,\).*argmax"),
        (np.zeros(3, int), None, r"shape \(3,\); expected \(4,\)"),
        (np.zeros(4), None, "are float64; expected integers"),
        (np.array([0, -1, 2, 1]), None, "run from -1 to 2"),
        (np.array([0, 1, 2, 1]), ("a", "b"), "run from 0 to 2; expected 0 to 1"),
        (np.array(["a", "b", "c", "a"]), ("a", "b"), "name c; the classes are a, b"),
    ],
)
def test_bad_labels_are_refused(tmp_path, labels, classes, message):
    path = save(tmp_path / "a.npy", np.zeros((4, 2, 2), np.uint8))
    with pytest.raises(ValueError, match=message):
        array_file(path, labels=labels, classes=classes)


def test_damaged_array_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        array_file(tmp_path / "a.npy")
    path = save(tmp_path / "a.npy", np.zeros((4, 20, 20), np.uint8))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match="cannot be read as a plain array file"):
        array_file(path)
    np.savez(tmp_path / "b.npz", x=np.zeros((4, 20, 20)))
    whole = (tmp_path / "b.npz").read_bytes()
    (tmp_path / "b.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot be read as a plain array file"):
        array_file(tmp_path / "b.npz")
    np.save(tmp_path / "c.npy", np.array([{"a": 1}, None], dtype=object))
    with pytest.raises(ValueError, match="cannot be read as a plain array file"):
        array_file(tmp_path / "c.npy")
    with pytest.raises(ValueError, match=r"shape \(0, 4, 4\)"):
        array_file(save(tmp_path / "d.npy", np.zeros((0, 4, 4), np.uint8)))


def write_idx(path, array, code=0x08, zipped=False):
    raw = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(raw) if zipped else raw)
    return path


@pytest.fixture
def idx_folder(tmp_path):
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    for prefix, count in (("train", 8), ("t10k", 3)):
        images = rng().integers(0, 256, (count, 4, 5)).astype(np.uint8)
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images, zipped=True)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8))
    return folder


def test_idx_folder(idx_folder):
    source = idx_files(idx_folder, "train")
    images = rng().integers(0, 256, (8, 4, 5)).astype(np.uint8)
    np.testing.assert_array_equal(source.batch(range(8))["x"][:, 0].numpy() * 255, images)
    assert source.batch([6])["label"].tolist() == [6] and source.facts.classes == tuple("01234567")
    assert len(idx_files(idx_folder, "test")) == 3 and len(idx_files(idx_folder)) == 11
    single = idx_files(idx_folder / "t10k-images-idx3-ubyte.gz")
    assert len(single) == 3 and single.facts.classes is None  # its labels are not gzipped: another name
    assert read_idx(write_idx(idx_folder / "x", np.array([1.5], ">f4"), 0x0D)).tolist() == [1.5]


def test_bad_idx_files_are_refused(idx_folder, tmp_path):
    images = idx_folder / "train-images-idx3-ubyte.gz"
    whole = images.read_bytes()
    images.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged gzip"):
        idx_files(idx_folder, "train")
    raw = gzip.decompress(whole)
    images.write_bytes(raw[:-1])
    with pytest.raises(ValueError, match=r"holds 175 bytes; its header, shape \(8, 4, 5\), says 176"):
        idx_files(idx_folder, "train")
    images.write_bytes(b"hello")
    with pytest.raises(ValueError, match="is not an idx file: it begins with the bytes 68 65 6c 6c"):
        idx_files(idx_folder, "train")
    write_idx(images, np.zeros((7, 4, 5), np.uint8))
    with pytest.raises(ValueError, match=r"7 pictures and labels of shape \(8,\)"):
        idx_files(idx_folder, "train")
    write_idx(images, np.zeros((8, 4), np.uint8))
    with pytest.raises(ValueError, match=r"expected bytes of shape \(N, H, W\)"):
        idx_files(idx_folder, "train")
    write_idx(images, np.zeros((8, 9, 9), np.uint8))
    with pytest.raises(ValueError, match="different sizes"):
        idx_files(idx_folder)
    with pytest.raises(ValueError, match=r"labels in .* run from 0 to 2, for 2 classes"):
        idx_files(idx_folder, "test", ("a", "b"))
    with pytest.raises(FileNotFoundError, match="no train-images-idx3-ubyte"):
        idx_files(tmp_path, "train")
    with pytest.raises(ValueError, match="split is 'val'"):
        idx_files(idx_folder, "val")


def test_names(monkeypatch, idx_folder, tmp_path):
    monkeypatch.delenv("ONEPRIOR_DATA", raising=False)
    assert len(open_source("digits", split="test")) == 360
    assert open_source("points:moons", split="train").facts.name == "points:moons"
    with pytest.raises(FileNotFoundError, match=r"ONEPRIOR_DATA is not set.*four idx files"):
        open_source("fashion-mnist")
    monkeypatch.setenv("ONEPRIOR_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(FileNotFoundError, match=r"looked in .*elsewhere \(ONEPRIOR_DATA\) too"):
        open_source("fashion-mnist")
    with pytest.raises(FileNotFoundError, match=r"no data at 'digitz'.*Did you mean 'digits'"):
        open_source("digitz")
    monkeypatch.setenv("ONEPRIOR_DATA", str(tmp_path))
    source = open_source("fashion-mnist", split="train")
    assert len(source) == 8 and source.facts.classes and source.facts.classes[6] == "shirt"
    assert source.facts.name == "fashion-mnist" and source.facts.licence.startswith("MIT")


def test_paths(monkeypatch, idx_folder, tmp_path):
    monkeypatch.setenv("ONEPRIOR_DATA", str(tmp_path))
    np.save(tmp_path / "a.npy", np.zeros((10, 4, 4), np.uint8))
    np.savez(tmp_path / "b.npz", x=np.zeros((10, 4, 4), np.uint8))
    assert len(open_source(tmp_path / "a.npy", split="test")) == 2
    assert len(open_source("b.npz")) == 10  # found in $ONEPRIOR_DATA
    assert len(open_source(idx_folder / "t10k-images-idx3-ubyte.gz")) == 3
    (tmp_path / "pictures").mkdir()
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "pictures" / "a.png")
    x = open_source(tmp_path / "pictures", size=4, channels=3).batch([0])["x"]
    assert torch.equal(x, torch.zeros(1, 3, 4, 4))
    (tmp_path / "c.txt").touch()
    with pytest.raises(ValueError, match="no data that is known"):
        open_source(tmp_path / "c.txt")


@pytest.mark.parametrize("setting", [{"size": 16}, {"channels": 3}, {"labels": False}])
def test_settings_that_do_not_apply_are_refused(setting):
    with pytest.raises(ValueError, match=r"applies to folders of pictures; 'digits' is used as it is stored"):
        open_source("digits", **setting)
