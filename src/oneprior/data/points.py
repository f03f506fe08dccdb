"""Points in the plane, drawn: data whose picture is the distribution."""

from collections.abc import Callable

import numpy as np

from oneprior.data.source import ArraySource, DataFacts

Drawing = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]

GAUSSIAN_MEANS = np.array([[0.0, 1.2], [-1.04, -0.6], [1.04, -0.6]])
GAUSSIAN_STDS = np.array([0.35, 0.25, 0.15])


def _gaussians(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    label = rng.integers(0, 3, count)
    return GAUSSIAN_MEANS[label] + GAUSSIAN_STDS[label, None] * rng.standard_normal((count, 2)), label


def _moons(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    label = rng.integers(0, 2, count)
    angle = np.pi * (rng.random(count) + label)
    arc = np.stack([np.cos(angle) + label - 0.5, np.sin(angle) + 0.5 * label - 0.25], axis=1)
    return arc + 0.08 * rng.standard_normal((count, 2)), label


def _spiral(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    label = rng.integers(0, 2, count)
    radius = 0.2 + 1.4 * np.sqrt(rng.random(count))
    angle = 4.5 * radius + np.pi * label
    arm = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return arm + 0.05 * rng.standard_normal((count, 2)), label


POINTS: dict[str, tuple[Drawing, tuple[str, ...]]] = {
    "gaussians": (_gaussians, ("top", "left", "right")),
    "moons": (_moons, ("upper", "lower")),
    "spiral": (_spiral, ("one", "other")),
}


def toy_points(name: str = "gaussians", count: int = 2000, seed: int = 0, labels: bool = True) -> ArraySource:
    """A toy set of points, x of shape (2,), unbounded and of order 1, continuous.

    "gaussians": three of equal weight with means `GAUSSIAN_MEANS` and standard deviations `GAUSSIAN_STDS`, so that
    densities and scores are known exactly; "moons": two half circles; "spiral": two arms.

    The points are a pure function of the seed; labels: the component, moon or arm.
    """
    if name not in POINTS:
        raise ValueError(f"no points named {name!r}; there are {', '.join(POINTS)}")
    if count < 1:
        raise ValueError(f"count is {count}; expected at least 1")
    drawing, classes = POINTS[name]
    x, label = drawing(np.random.Generator(np.random.Philox(key=seed)), count)
    facts = DataFacts((2,), classes if labels else None, None, f"points:{name}", "drawn, no rights", count)
    return ArraySource(facts, x.astype(np.float32), label.astype(np.int64) if labels else None)
