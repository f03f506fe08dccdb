"""Drawn scenes: a caption means a known set, pixels give the scene back, options differ in one factor."""

from itertools import product

import numpy as np
import pytest

from oneprior.data.scenes import (
    COLOURS,
    FACTORS,
    RELATIONS,
    SHAPES,
    Style,
    Thing,
    meant,
    parse,
    questions,
    render,
    scenes,
)

EXACT = 1e-6


@pytest.mark.parametrize("style", [Style(), Style(3), Style(background=0.3, gain=0.6)])
@pytest.mark.parametrize("factor", FACTORS)
def test_a_picture_gives_its_scene_back(factor: str, style: Style) -> None:
    for i, q in enumerate(questions(factor, 12, seed=3, grid=style.grid)):
        image = render(q.scene, style)
        assert image.shape == (3, style.grid * 8, style.grid * 8) and 0 <= image.min() <= image.max() <= 1
        assert parse(image, style) == q.scene
        noisy = Style(style.grid, 8, style.background, style.gain, texture=0.05)
        assert parse(render(q.scene, noisy, seed=i), style) == q.scene
        assert q.scene in meant(q.options[0], style.grid)
        assert not any(q.scene in meant(o, style.grid) for o in q.options[1:])
        assert len(set(q.options)) == {"colour": 4, "shape": 3, "binding": 2, "position": 4, "count": 4}[factor]


def test_every_thing_is_drawn_in_its_own_way() -> None:
    """The card's trap: two shapes of the same mask cap every accuracy."""
    drawn = [render(frozenset({Thing(c, s, 0, 0)})) for c, s in product(COLOURS, SHAPES)]
    apart = [((a - b) ** 2).mean() for i, a in enumerate(drawn) for b in drawn[:i]]
    assert min(apart) > 100 * EXACT and parse(np.zeros((3, 16, 16), dtype=np.float32)) == frozenset()


def test_how_many_scenes_a_caption_means() -> None:
    for caption, small, large in (
        ("a red square", 4, 9),
        ("a red square and a blue disc", 12, 72),
        ("a red disc and a red disc", 6, 36),
        ("a red square left of a blue disc", 2, 9),
        ("two blue discs", 6, 36),
        ("four green crosses", 1, 126),
    ):
        assert (len(meant(caption)), len(meant(caption, 3))) == (small, large)
    either = [set(meant(f"a red square {how} a blue disc")) for how in RELATIONS]
    assert sum(map(len, either)) == len(set.union(*either)) == 8  # of 12; the diagonals have no name
    assert set(meant("a red disc above a blue disc")) == set(meant("a blue disc below a red disc"))


def test_what_is_no_scene() -> None:
    noise = np.random.Generator(np.random.Philox(key=1)).random((3, 16, 16), dtype=np.float32)
    assert parse(noise) is None
    image = render(meant("a red square")[0])
    image[:, :4, :8] = 1.0
    assert parse(image) is None
    for caption in ("a red dog", "five red discs", "a red square beside a blue disc", "two red discs and a blue cross"):
        with pytest.raises(ValueError, match="is no caption of scenes on 2 x 2 cells"):
            meant(caption)
    with pytest.raises(ValueError, match=r"a picture \(3, 16, 16\) was expected"):
        parse(np.zeros((3, 24, 24)))
    with pytest.raises(ValueError, match="one of colour, shape"):
        questions("size", 1)
    with pytest.raises(ValueError, match="drawn alike"):
        Style(cell=6)


def test_the_source_is_a_function_of_its_seed() -> None:
    a, b, c = scenes(12), scenes(12), scenes(12, seed=1)
    assert a.captions == b.captions != c.captions and len(a) == 12
    batch = a.batch([3, 7])
    assert batch["text"] == [a.captions[3], a.captions[7]] and tuple(batch["x"].shape) == (2, 3, 16, 16)
    for image, caption in zip(a.batch(range(12))["x"].numpy(), a.captions, strict=True):
        assert parse(image) in meant(caption)
    moved = scenes(6, Style(jitter=1, texture=0.1), factors=("binding",))
    assert all(" and " in v for v in moved.captions)
    assert not np.array_equal(moved.batch([0])["x"].numpy(), a.batch([0])["x"].numpy())
