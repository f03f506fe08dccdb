"""Tables beside pictures, groups kept together, zip archives, zarr, and other libraries' data sets."""

import json
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from oneprior.data import array_file, from_dataset, image_folder, open_source
from oneprior.data.source import apart


def put(path: Path, value: int = 0, size: tuple[int, int] = (4, 4), kind: Any = np.uint8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size, value, dtype=kind)).save(path)
    return path


def tabled(root: Path, count: int = 12) -> Path:
    """Pictures of value i, class by i % 3, two of each patient, a caption."""
    lines = ["file_name,breed,patient,said"]
    for i in range(count):
        put(root / "img" / f"{i:02d}.png", i)
        lines.append(f"img/{i:02d}.png,{'cab'[i % 3]},p{i // 2},number {i}")
    (root / "metadata.csv").write_text("\n".join(lines) + "\n")
    return root


def test_a_column_is_the_class(tmp_path: Path) -> None:
    source = image_folder(tabled(tmp_path), label="breed", text="said")
    assert source.facts.classes == ("a", "b", "c")
    batch: Any = source.batch([0, 1, 5])
    assert batch["label"].tolist() == [2, 0, 1] and batch["text"] == ["number 0", "number 1", "number 5"]
    assert (batch["x"] * 255).round()[:, 0, 0, 0].tolist() == [0, 1, 5]
    assert source.captions[7] == "number 7"  # type: ignore[attr-defined]
    assert image_folder(tmp_path).facts.classes is None  # a table alone asks nothing


def test_jsonl_and_numbers_sort_as_numbers(tmp_path: Path) -> None:
    rows = [{"file_name": put(tmp_path / f"{i}.png", i).name, "grade": 10 - i} for i in range(4)]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    source = image_folder(tmp_path, label="grade")
    assert source.facts.classes == ("7", "8", "9", "10") and source.batch([0])["label"].tolist() == [3]


def test_splits_on_disk_share_their_classes(tmp_path: Path) -> None:
    for part, names in (("train", "ab"), ("validation", "c")):
        for name in names:
            put(tmp_path / part / f"{name}.png")
        text = "file_name,kind\n" + "".join(f"{n}.png,{n}\n" for n in names)
        (tmp_path / part / "metadata.csv").write_text(text)
    assert image_folder(tmp_path, split="test", label="kind").facts.classes == ("a", "b", "c")
    assert image_folder(tmp_path, split="test", label="kind").batch([0])["label"].tolist() == [2]
    with pytest.raises(ValueError, match="is split on disk"):
        image_folder(tmp_path, split="test", split_by="kind")


def test_groups_stay_together(tmp_path: Path) -> None:
    parts = [image_folder(tabled(tmp_path), split=s, split_by="patient") for s in ("train", "test")]
    values = [(p.batch(range(len(p)))["x"] * 255).round()[:, 0, 0, 0].int().tolist() for p in parts]
    assert sorted(values[0] + values[1]) == list(range(12)) and len(values[1]) == 4  # of six patients, two
    assert not {v // 2 for v in values[0]} & {v // 2 for v in values[1]}
    train, test = apart(["train", "Validation", "test", "train", "train"])
    assert train.tolist() == [0, 3, 4] and test.tolist() == [1, 2]  # a column that says it is obeyed
    with pytest.raises(ValueError, match="two of them or more; all 3 samples are of 'a'"):
        apart(["a"] * 3)


@pytest.mark.parametrize(
    ("text", "how", "said"),
    [
        (
            "file_name,k\nimg/00.png,a\ngone.png,b\nlost.png,c\n",
            {},
            r"names 2 of 3 files that are not there(.|\n)*gone",
        ),
        ("file_name,k\nimg/00.png,a\nimg/00.png,b\n", {}, "names img/00.png twice"),
        ("name,k\nimg/00.png,a\n", {}, "row 1 of .*metadata.csv has no file_name"),
        ("file_name,k\nimg/00.png,a\n", {"label": "breed"}, "has no column 'breed'; it has k"),
        ("file_name,k\nimg/00.png,a\nimg/01.png,\n", {"label": "k"}, r"11 of 12 pictures have no value(.|\n)*01\.png"),
        ("file_name,k\nimg/00.png,\xff\n", {}, "no table in UTF-8"),
    ],
)
def test_tables_that_do_not_fit(tmp_path: Path, text: str, how: Any, said: str) -> None:
    tabled(tmp_path)
    (tmp_path / "metadata.csv").write_bytes(text.encode("latin1"))
    with pytest.raises(ValueError, match=said):
        image_folder(tmp_path, **how)


def test_no_table_and_two_tables(tmp_path: Path) -> None:
    put(tmp_path / "0.png")
    with pytest.raises(ValueError, match=r"'k' is a column of metadata\.csv or metadata\.jsonl"):
        image_folder(tmp_path, label="k")
    for name in ("metadata.csv", "metadata.jsonl"):
        (tmp_path / name).write_text("")
    with pytest.raises(ValueError, match="Keep one"):
        image_folder(tmp_path)


def test_mixed_depths_are_refused(tmp_path: Path) -> None:
    for i in range(3):
        put(tmp_path / f"{i}.png")
    put(tmp_path / "deep.png", 40000, kind=np.uint16)
    with pytest.raises(ValueError, match=r"different depths in .*3 of 8 bits and 1 of 16 bits"):
        image_folder(tmp_path)


def test_a_zip_with_labels(tmp_path: Path) -> None:
    tabled(tmp_path / "d")
    listed = [[f"00000/{i:02d}.png", i % 4] for i in range(12)]
    with zipfile.ZipFile(tmp_path / "edm.zip", "w") as z:
        for i in range(12):
            z.write(tmp_path / f"d/img/{i:02d}.png", f"00000/{i:02d}.png")
        z.writestr("dataset.json", json.dumps({"labels": listed}))
    source = open_source(tmp_path / "edm.zip")
    assert source.facts.classes == ("0", "1", "2", "3") and len(source) == 12 and source.facts.levels == 256
    batch = source.batch([5, 2])
    assert (batch["x"] * 255).round()[:, 0, 0, 0].tolist() == [5, 2] and batch["label"].tolist() == [1, 2]
    assert open_source(tmp_path / "edm.zip", labels=False).facts.classes is None
    (tmp_path / "cut.zip").write_bytes((tmp_path / "edm.zip").read_bytes()[:300])
    with pytest.raises(ValueError, match="no whole zip archive"):
        open_source(tmp_path / "cut.zip")


@pytest.mark.parametrize("shape", [(5, 7, 6), (5, 7, 6, 3)])
def test_zarr_reads_as_the_same_array(tmp_path: Path, shape: tuple[int, ...]) -> None:
    zarr = pytest.importorskip("zarr")
    a = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    zarr.save_array(str(tmp_path / "a.zarr"), a)
    np.save(tmp_path / "a.npy", a)
    one, two = open_source(tmp_path / "a.zarr"), array_file(tmp_path / "a.npy")
    assert one.facts == two.facts
    assert torch.equal(one.batch([4, 0, 0])["x"], two.batch([4, 0, 0])["x"])
    group = zarr.open_group(str(tmp_path / "g.zarr"), mode="w")
    group["images"], group["labels"] = a, np.array([0, 1, 1, 0, 2])
    both = array_file(tmp_path / "g.zarr")
    assert both.batch([2, 4])["label"].tolist() == [1, 2] and torch.equal(both.batch([3])["x"], two.batch([3])["x"])


class Drawn:
    """A map-style data set as torch knows it: (picture, class)."""

    classes = ("dark", "light")

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> Any:
        a = np.full((3, 5, 6), 60 * i, np.uint8)
        if self.kind == "pil":
            return Image.fromarray(a.transpose(1, 2, 0)), i // 2
        if self.kind == "mapping":
            return {"image": Image.fromarray(a.transpose(1, 2, 0)), "label": i // 2, "said": f"n {i}"}
        return torch.from_numpy(a).float() / 255, i // 2


@pytest.mark.parametrize("kind", ["pil", "floats", "mapping"])
def test_a_data_set_as_it_is(kind: str) -> None:
    source = open_source(Drawn(kind))
    assert source.facts.shape == (3, 5, 6) and source.facts.classes == ("dark", "light")
    assert source.facts.levels == (None if kind == "floats" else 256)
    batch = source.batch([3, 0])
    torch.testing.assert_close(batch["x"][:, 0, 0, 0], torch.tensor([180 / 255, 0.0]))
    assert batch["label"].tolist() == [1, 0]
    if kind == "mapping":
        small: Any = from_dataset(Drawn(kind), text="said", size=4, channels=1)
        assert small.facts.shape == (1, 4, 4) and small.captions[2] == "n 2"
        with pytest.raises(KeyError, match=r"label='breed': an item holds image, label, said"):
            from_dataset(Drawn(kind), label="breed")


def test_data_sets_that_cannot_be_used() -> None:
    with pytest.raises(TypeError, match="no items by index"):
        from_dataset(iter([1, 2]))
    with pytest.raises(TypeError, match="a picture was expected"):
        from_dataset([np.zeros(3)])
    with pytest.raises(ValueError, match=r"float64 \(1, 4, 4\) from 255 to 255; bytes, or floats in"):
        from_dataset([np.full((1, 4, 4), 255.0), np.zeros((1, 4, 4))]).batch([0])


class Face:
    """A data set as Hugging Face's: columns by name, rows by index, names of classes among its features."""

    column_names = ("image", "label")
    features: ClassVar[dict[str, Any]] = {"label": type("ClassLabel", (), {"names": ["no", "yes"]})}
    info = type("Info", (), {"dataset_name": "faces"})

    def __init__(self, numbers: list[int]) -> None:
        self.numbers, self.decoded = numbers, 0

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, i: Any) -> Any:
        if i == "label":
            return [n % 2 for n in self.numbers]
        self.decoded += 1
        n = self.numbers[i]
        return {"image": Image.fromarray(np.full((4, 4), 9 * n, np.uint8)), "label": n % 2}


def test_hugging_face_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the library's own objects the same was run by hand; it is in no extra that tests need."""
    whole = Face([3, 4, 5, 6, 7])
    source = open_source(whole)
    assert source.facts.classes == ("no", "yes") and source.facts.name == "faces"
    assert whole.decoded == 1  # the first one, for its shape: labels come as a column
    assert source.batch([1, 2])["label"].tolist() == [0, 1]

    module: Any = ModuleType("datasets")
    module.DatasetDict = type("DatasetDict", (dict,), {})
    module.concatenate_datasets = lambda parts: Face([n for p in parts for n in p.numbers])
    held = module.DatasetDict(train=whole, validation=Face([8]))
    module.load_from_disk = lambda path: held if path.endswith("both") else whole
    monkeypatch.setitem(sys.modules, "datasets", module)
    for name, marks in (("both", "dataset_dict.json"), ("one", "state.json")):
        (tmp_path / name).mkdir()
        (tmp_path / name / marks).touch()
    lengths = [len(open_source(tmp_path / "both", split=s)) for s in ("train", "test", "all")]
    assert lengths == [5, 1, 6] and len(open_source(tmp_path / "one", split="test")) == 1  # a fifth of its own
    del held["train"]
    with pytest.raises(ValueError, match="holds validation, and nothing that is 'train'"):
        open_source(tmp_path / "both", split="train")
