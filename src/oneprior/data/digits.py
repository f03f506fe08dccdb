"""Handwritten digits: 1,797 grey pictures of 8 x 8 pixels, values 0 .. 16, embedded in scikit-learn."""

import numpy as np

from oneprior.data.source import ArraySource, DataFacts, Source, split_of


def digits(split: str = "all") -> Source:
    """The digits of scikit-learn, x = value / 16 in [0, 1], 17 levels, ten classes.

    The split is fixed: 360 held-out pictures, 36 of every class, are the first of each class in the ranking of all
    samples by the raw Philox stream of key 1 (`held_out(1797, groups=labels)`); the other 1,437 are for training.
    """
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    facts = DataFacts(
        shape=(1, 8, 8),
        classes=tuple(str(i) for i in range(10)),
        levels=17,
        name="digits",
        licence="CC BY 4.0, Alpaydin and Kaynak (1998), UCI Machine Learning Repository, test part",
        count=len(pixels),
    )
    source = ArraySource(facts, pixels.reshape(-1, 1, 8, 8).astype(np.uint8), labels.astype(np.int64), 0, 16)
    return split_of(source, split, groups=labels)
