"""Which parts of several lengths share a row of F frames: plain numbers, so that data can plan with them unread."""

from __future__ import annotations

from collections.abc import Sequence


def rows_of(lengths: Sequence[int], frames: int) -> list[list[tuple[int, int, int]]]:
    """Rows of (part, first frame, count), each of `frames` frames in all. Longest first, each in the first row with
    room; room that is left is filled with single frames of the parts, in turn, as pictures.

    Raises:
        ValueError: for no part, an empty one, or one longer than a row.
    """
    if not lengths or not 1 <= min(lengths) <= max(lengths) <= frames:
        said = f"rows of {frames} frames were to hold parts of {sorted(set(lengths))}"
        raise ValueError(f"{said}: one or more, none empty or longer, expected")
    rows: list[list[tuple[int, int, int]]] = []
    room: dict[int, int] = {}  # by row, of those that are not full
    for part in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        n = lengths[part]
        row = next((r for r, left in room.items() if left >= n), len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append((part, 0, n))
        room[row] = room.get(row, frames) - n
        if not room[row]:
            del room[row]
    singles, at = [(p, f, 1) for p, n in enumerate(lengths) for f in range(n)], 0
    for row, left in room.items():
        rows[row] += [singles[(at + i) % len(singles)] for i in range(left)]
        at += left
    return rows


def segments_of(row: Sequence[tuple[int, int, int]]) -> list[int]:
    """For each frame of a row, which of its parts it belongs to."""
    return [i for i, (_, _, n) in enumerate(row) for _ in range(n)]
