"""Data sources: a length, batches by index, facts. Importing this brings no torch.

>>> source = open_source("digits", split="train")
>>> source.batch(range(8))["x"].shape
torch.Size([8, 1, 8, 8])
"""

from oneprior.data.arrays import array_file
from oneprior.data.clips import Rows, animation, clip_folder
from oneprior.data.degrade import Degraded, Recipe
from oneprior.data.digits import digits
from oneprior.data.emoji import Emoji, emoji
from oneprior.data.folder import UnreadableImages, image_folder
from oneprior.data.foreign import from_dataset
from oneprior.data.idx import idx_files, read_idx
from oneprior.data.mirror import Mirrored
from oneprior.data.moving import MovingDigits, MovingScenes
from oneprior.data.packed import Packed
from oneprior.data.pairs import Pairs, image_pairs
from oneprior.data.points import toy_points
from oneprior.data.resolve import open_source
from oneprior.data.scans import Scan, scans
from oneprior.data.source import (
    ArraySource,
    Batch,
    Captioned,
    DataFacts,
    Source,
    Subset,
    held_out,
    in_memory,
    split_of,
    subset,
)
from oneprior.data.stored import Stored

__all__ = [
    "ArraySource",
    "Batch",
    "Captioned",
    "DataFacts",
    "Degraded",
    "Emoji",
    "Mirrored",
    "MovingDigits",
    "MovingScenes",
    "Packed",
    "Pairs",
    "Recipe",
    "Rows",
    "Scan",
    "Source",
    "Stored",
    "Subset",
    "UnreadableImages",
    "animation",
    "array_file",
    "clip_folder",
    "digits",
    "emoji",
    "from_dataset",
    "held_out",
    "idx_files",
    "image_folder",
    "image_pairs",
    "in_memory",
    "open_source",
    "read_idx",
    "scans",
    "split_of",
    "subset",
    "toy_points",
]
