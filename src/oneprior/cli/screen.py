"""What a person sees: results on the standard output, progress and notes beside it; with --json only the JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from oneprior.report import with_error

T = TypeVar("T")


class Screen:
    """Of several processes, only the first one speaks."""

    def __init__(self, as_json: bool = False, quiet: bool = False) -> None:
        self.quiet = quiet or bool(int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0))))
        self.as_json = as_json
        self.side = Console(stderr=True, highlight=False, soft_wrap=True, quiet=self.quiet)
        self.main = Console(highlight=False, soft_wrap=True, quiet=self.quiet or as_json)

    def note(self, text: str) -> None:
        """Something beside the result."""
        self.side.print(text, markup=False, style="dim")

    def say(self, text: Any) -> None:
        """A part of the result for people."""
        self.main.print(text, markup=False) if isinstance(text, str) else self.main.print(text)

    def table(self, rows: Sequence[Mapping[str, Any]], title: str | None = None, most: int = 40) -> None:
        """Rows under the names of their keys; of many, the first."""
        if not rows:
            return
        table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="dim")
        every = dict.fromkeys(k for r in rows for k in r if k != "stderr")  # which stands with its value
        shown = [k for k in every if any(r.get(k) is not None for r in rows)]
        for k in shown:
            table.add_column(k, justify="right" if any(isinstance(r.get(k), float) for r in rows) else "left")
        for row in rows[:most]:
            table.add_row(*(cell(row, k) for k in shown))
        self.main.print(table)
        if len(rows) > most:
            self.say(f"... and {len(rows) - most} more (--json has them all)")

    def result(self, record: Mapping[str, Any]) -> None:
        """The result for machines, where it was asked for."""
        if self.as_json and not self.quiet:
            json.dump(_finite(record), sys.stdout, allow_nan=False)
            sys.stdout.write("\n")
            sys.stdout.flush()

    def bar(self, *columns: Any) -> Progress:
        """A progress bar beside the result; nothing where nobody watches."""
        own = columns or (MofNCompleteColumn(), TimeRemainingColumn(compact=True))
        watched = self.side.is_terminal and not self.quiet
        return Progress(TextColumn("{task.description}"), BarColumn(), *own, console=self.side, disable=not watched)

    @contextmanager
    def steps(self, items: Sequence[T], what: str, weigh: Any = lambda _: 1) -> Iterator[Iterator[T]]:
        """Go through items under a bar that counts `weigh(item)` each."""
        with self.bar() as bar:
            task = bar.add_task(what, total=sum(weigh(i) for i in items))

            def each() -> Iterator[T]:
                for item in items:
                    yield item
                    bar.advance(task, weigh(item))

            yield each()


def cell(row: Mapping[str, Any], key: str) -> str:
    text, error = with_error(row.get(key), row.get("stderr") if key == "value" else None)
    return f"{text} ± {error}" if error else text


def _finite(value: Any) -> Any:
    """JSON has no infinity and no NaN: null."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value if isinstance(value, str | int | bool | None) else str(value)
