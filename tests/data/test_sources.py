"""Digits, points, subsets, and the protocol that every source keeps."""

import json
import pickle
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from oneprior.data import (
    ArraySource,
    DataFacts,
    Source,
    Subset,
    digits,
    held_out,
    in_memory,
    split_of,
    subset,
    toy_points,
)
from oneprior.data.points import GAUSSIAN_MEANS, GAUSSIAN_STDS, POINTS


def test_importing_sources_brings_no_torch():
    code = "import sys, oneprior.data; oneprior.data.toy_points(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_digits_batches():
    source = digits()
    pixels, labels = load_digits(return_X_y=True)
    batch = source.batch([5, 3, 1796])
    assert isinstance(source, Source) and len(source) == 1797
    assert batch["x"].dtype == torch.float32 and batch["x"].shape == (3, 1, 8, 8)
    assert torch.equal(batch["x"].double().flatten(1) * 16, torch.from_numpy(pixels[[5, 3, 1796]]))
    assert batch["label"].dtype == torch.int64 and batch["label"].tolist() == labels[[5, 3, 1796]].tolist()
    facts = source.facts
    assert (facts.shape, facts.levels, facts.name, facts.count) == ((1, 8, 8), 17, "digits", 1797)
    assert facts.classes == tuple("0123456789")


def test_the_split_of_digits_is_fixed():
    train, test = digits("train"), digits("test")
    assert (len(train), len(test), train.facts.count, test.facts.count) == (1437, 360, 1437, 360)
    assert isinstance(train, Subset) and isinstance(test, Subset)
    assert sorted([*train.indices, *test.indices]) == list(range(1797))
    assert test.batch(range(360))["label"].bincount().tolist() == [36] * 10
    # these numbers stand for good: every published figure on digits depends on them
    assert test.indices[:10].tolist() == [2, 3, 5, 9, 23, 24, 26, 27, 30, 41] and test.indices.sum() == 332022
    with pytest.raises(ValueError, match="split is 'val'; expected 'train', 'test' or 'all'"):
        digits("val")


def test_held_out_is_a_fixed_fifth():
    train, test = held_out(1001)
    assert len(test) == 201 and len(np.intersect1d(train, test)) == 0 and len(train) == 800
    assert np.array_equal(held_out(1001)[1], test) and not np.array_equal(held_out(1001, seed=2)[1], test)
    with pytest.raises(ValueError, match="source of 1 sample"):
        held_out(1)


def test_facts_survive_json():
    facts = digits().facts
    assert DataFacts(**json.loads(json.dumps(asdict(facts)))) == facts


@pytest.mark.parametrize("indices", [[1797], [0, -1]])
def test_indices_outside_are_refused(indices):
    with pytest.raises(IndexError, match=rf"index {indices[-1]} is outside 0 .. 1796 of digits"):
        digits().batch(indices)
    with pytest.raises(IndexError, match="outside"):
        subset(digits(), indices)


def test_subsets_nest_and_sources_cross_processes():
    source = subset(subset(digits(), range(100, 200)), [7, 3])
    assert torch.equal(source.batch([1])["x"], digits().batch([103])["x"])
    assert source.facts.classes == digits().facts.classes and source.facts.count == len(source) == 2
    again = pickle.loads(pickle.dumps(source))
    assert torch.equal(again.batch([0, 1])["x"], source.batch([0, 1])["x"])
    assert source.batch([])["x"].shape == (0, 1, 8, 8)
    with pytest.raises(ValueError, match="without any sample"):
        subset(digits(), [])


@pytest.mark.parametrize("source", [digits("test"), toy_points("moons", 50), toy_points(labels=False, count=9)])
def test_in_memory_keeps_every_bit(source):
    copy = in_memory(source, chunk=16)
    assert isinstance(copy, ArraySource) and copy.facts == source.facts
    assert copy.array.dtype == (np.uint8 if source.facts.levels else np.float32)
    one, other = source.batch(range(len(source))), copy.batch(range(len(source)))
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_gaussian_points_have_the_stated_moments():
    count = 30_000
    batch = toy_points("gaussians", count).batch(range(count))
    x, label = batch["x"].double().numpy(), batch["label"].numpy()
    for k, (mean, std) in enumerate(zip(GAUSSIAN_MEANS, GAUSSIAN_STDS, strict=True)):
        part = x[label == k]
        n = len(part)
        assert abs(n / count - 1 / 3) < 4 * np.sqrt(2 / 9 / count)
        assert np.abs(part.mean(0) - mean).max() < 4 * std / np.sqrt(n)
        assert np.abs(part.std(0) / std - 1).max() < 4 / np.sqrt(2 * n)


@pytest.mark.parametrize("name", POINTS)
def test_points(name):
    source = toy_points(name, 500)
    assert source.facts.shape == (2,) and source.facts.levels is None
    batch = source.batch(range(500))
    assert batch["x"].shape == (500, 2) and set(batch["label"].tolist()) == set(range(len(source.facts.classes or ())))
    assert 0.5 < batch["x"].std().item() < 1.2
    assert torch.equal(toy_points(name, 500).batch(range(500))["x"], batch["x"])
    assert not torch.equal(toy_points(name, 500, seed=1).batch(range(500))["x"], batch["x"])
    assert "label" not in toy_points(name, 5, labels=False).batch([0])
    assert len(split_of(source, "test")) == 100


def test_bad_points_are_refused():
    with pytest.raises(ValueError, match="no points named 'star'; there are gaussians, moons, spiral"):
        toy_points("star")
    with pytest.raises(ValueError, match="count is 0"):
        toy_points(count=0)


def test_a_source_must_fit_its_facts():
    facts = DataFacts((2,), ("a",), None, "mine", "", 3)
    with pytest.raises(ValueError, match=r"array has shape \(4, 2\); its facts say \(3, 2\)"):
        ArraySource(facts, np.zeros((4, 2)), np.zeros(4, int))
    with pytest.raises(ValueError, match="one of them is missing"):
        ArraySource(facts, np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"labels have shape \(2,\)"):
        ArraySource(facts, np.zeros((3, 2)), np.zeros(2, int))
