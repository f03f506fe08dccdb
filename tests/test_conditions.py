"""Conditions: what users type becomes port tensors or a clear refusal; dropping follows its law; a null is nothing."""

import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from oneprior.conditions import Conditions, Field, Label, Vector
from oneprior.nets import UNetConfig, build

ANIMALS = Label(("cat", "dog", "eel"))
ALL = Conditions({"label": ANIMALS, "weight": Vector(2, (60.0, 1.0), (10.0, 0.5), ("kg", "m")), "map": Field(1)})


@pytest.mark.parametrize(
    ("value", "want"),
    [
        ("dog", [1, 1, 1, 1]),
        (2, [2, 2, 2, 2]),
        (None, [3, 3, 3, 3]),
        (np.int64(1), [1, 1, 1, 1]),
        (["cat", 2, None, "dog"], [0, 2, 3, 1]),
        (range(4), [0, 1, 2, 3]),
        (torch.tensor([0, 1, 2, 3]), [0, 1, 2, 3]),
        (torch.tensor(2, dtype=torch.uint8), [2, 2, 2, 2]),
    ],
)
def test_labels_as_users_say_them(value: object, want: list[int]) -> None:
    label = Conditions({"label": ANIMALS}).encode(4, label=value)["label"]
    assert label.dtype == torch.int64 and label.tolist() == want


def test_digits_called_by_name_or_index() -> None:
    digits = Label(tuple("0123456789"))
    assert digits.encode("7", 1)["label"].tolist() == digits.encode(7, 1)["label"].tolist() == [7]


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        ("dgo", ValueError, "no class is called 'dgo'; known are cat, dog, eel"),
        (4, ValueError, r"label must be in 0\.\.2 \(cat, dog, eel\), or 3 for none; got 4\.\.4"),
        (-1, ValueError, r"got -1\.\.-1"),
        ([0, 1], ValueError, "label came for 2 samples, but the batch has 4"),
        (torch.tensor([0.5] * 4), TypeError, "integer tensor of shape .4,.; got torch.float32"),
        (torch.zeros(4, 1, dtype=torch.long), TypeError, r"\(4, 1\)"),
        (1.0, TypeError, "a name or an index, or a list of them; got 1.0"),
        (True, TypeError, "got True"),
    ],
)
def test_labels_that_cannot_be(value: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        ANIMALS.encode(value, 4)


def test_vectors_in_their_units() -> None:
    v = ALL.encode(2, weight=[70.0, 1.5])["vector"]
    torch.testing.assert_close(v, torch.tensor([[1.0, 1.0, 1.0]] * 2))
    v = ALL.encode(2, weight=torch.tensor([[60.0, 1.0], [50.0, 2.0]]))["vector"]
    torch.testing.assert_close(v, torch.tensor([[0.0, 0.0, 1.0], [-1.0, 2.0, 1.0]]))
    assert ALL.encode(2, weight=None)["vector"].tolist() == [[0.0] * 3] * 2
    age = Vector()
    assert age.encode(3, 2)["vector"].tolist() == [[3.0, 1.0]] * 2
    assert age.encode([3, 4], 2)["vector"].tolist() == [[3.0, 1.0], [4.0, 1.0]]
    with pytest.raises(ValueError, match=r"vector wants 2 numbers a sample \(kg, m\); got shape \(3,\)"):
        ALL.encode(2, weight=[1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="1 values that are NaN"):
        age.encode(math.nan, 1)
    with pytest.raises(ValueError, match="came for 3 samples"):
        age.encode([1, 2, 3], 2)
    for bad in (lambda: Vector(0), lambda: Vector(2, (0.0,)), lambda: Vector(1, std=0.0)):
        with pytest.raises(ValueError, match="Vector"):
            bad()


def test_fields_on_the_grid() -> None:
    one = torch.rand(1, 4, 6)
    image = ALL.encode(3, map=one)["image"]
    assert image.shape == (3, 2, 4, 6)
    torch.testing.assert_close(image[1, 0], 2 * one[0] - 1)
    assert (image[:, 1] == 1).all()
    assert ALL.encode(3, map=None) == {}
    assert Field(1, -1000, 3000).encode(torch.full((1, 2, 2), 1000.0), 1)["image"][:, 0].abs().max() == 0
    with pytest.raises(ValueError, match=r"image must be in \[0, 1\]; got 0 to 255: rescale"):
        ALL.encode(1, map=one * 0 + torch.tensor([0.0, 255.0, 0, 0, 0, 0]))
    with pytest.raises(ValueError, match=r"\(1, H, W\) or \(2, 1, H, W\); got \(3, 4, 6\)"):
        ALL.encode(2, map=torch.zeros(3, 4, 6))
    with pytest.raises(ValueError, match="low < high"):
        Field(1, 1.0, 0.0)


def test_unknown_names_and_clashing_ports() -> None:
    with pytest.raises(TypeError, match="unknown condition lable; this prior knows label, weight, map"):
        ALL.encode(1, lable=1)
    with pytest.raises(TypeError, match="has none: it was trained unconditionally"):
        Conditions().encode(1, label=1)
    with pytest.raises(ValueError, match="'a' and 'b' both use the port 'vector'"):
        Conditions({"a": Vector(), "b": Vector(2)})
    with pytest.raises(ValueError, match="each once"):
        Label(("cat", "cat"))


def everything(n: int) -> dict[str, Tensor]:
    return ALL.encode(n, label=[i % 3 for i in range(n)], weight=torch.randn(n, 2), map=torch.rand(n, 1, 4, 4))


def test_dropping_gives_the_null_to_the_right_samples() -> None:
    cond = everything(4)
    u = torch.tensor([0.05, 0.5, 0.0999, 0.1])
    out = ALL.drop({**cond, "other": u}, u, 0.1)
    assert torch.equal(out["other"], u)
    for port, value in cond.items():
        null = ALL.null[port].expand_as(value)
        for i, dropped in enumerate([True, False, True, False]):
            assert torch.equal(out[port][i], null[i] if dropped else value[i]), (port, i)
        assert out[port].dtype == value.dtype
    each = ALL.drop(cond, torch.tensor([[0.0, 1.0, 0.0]]).expand(4, -1), 0.1)
    assert each["label"].tolist() == [3] * 4 and not each["image"].any()
    assert torch.equal(each["vector"], cond["vector"])
    assert list(ALL.drop({"label": cond["label"]}, u, 0.1)) == ["label"]
    with pytest.raises(ValueError, match=r"\(B,\) or \(B, 3\); got \(4, 2\)"):
        ALL.drop(cond, torch.rand(4, 2), 0.1)


def test_drop_rate_and_its_ends() -> None:
    n = 40_000
    labels = Conditions({"label": ANIMALS})
    cond = labels.encode(n, label="dog")
    u = torch.rand(n, generator=torch.Generator().manual_seed(0))
    share = (labels.drop(cond, u, 0.2)["label"] == 3).double().mean()
    assert abs(share - 0.2) < 5 * math.sqrt(0.2 * 0.8 / n)
    assert torch.equal(labels.drop(cond, u, 0.0)["label"], cond["label"])
    assert (labels.drop(cond, u, 1.0)["label"] == 3).all()


def test_a_network_takes_the_ports_and_hears_null_as_nothing() -> None:
    torch.manual_seed(0)
    net = build(UNetConfig((1, 4, 4), channels=(8, 8), **ALL.fields)).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    x, t, cond = torch.randn(2, 1, 4, 4), torch.rand(2), everything(2)
    nulls = {port: null.expand_as(cond[port]) for port, null in ALL.null.items()}
    torch.testing.assert_close(net(x, t, **nulls), net(x, t), atol=1e-5, rtol=1e-5)
    assert (net(x, t, **cond) - net(x, t)).abs().max() > 1e-3
    mean = ALL.encode(2, weight=[60.0, 1.0])  # a vector equal to the mean is something said
    assert (net(x, t, **mean) - net(x, t)).abs().max() > 1e-3


def test_conditions_survive_json() -> None:
    again = Conditions.from_dict(json.loads(json.dumps(ALL.to_dict())))
    assert dict(again) == dict(ALL) and list(again) == list(ALL)
    assert dict(Conditions.from_dict(Conditions().to_dict())) == {}
    with pytest.raises(ValueError, match="condition 'x' has type 'text'; known are label, vector, caption, field"):
        Conditions.from_dict({"x": {"type": "text"}})
