"""report.html: one self-contained page of what was measured, with pictures; no script, no outside host.

Each figure stands beside its baseline and its null, because a number alone says nothing. Readable in light and dark, on
a telephone and on paper; pictures are inside the file.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from math import floor, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oneprior.training.files import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

COLUMNS = ("use", "metric", "value", "baseline", "null", "bar", "verdict")
INK = "#010203"  # a colour that nobody uses: in a drawing it stands for that of the text

STYLE = Path(__file__).with_name("report.css")


def write_report(
    path: str | Path,
    *,
    title: str,
    lead: str = "",
    rows: Sequence[Mapping[str, Any]] = (),
    pictures: Iterable[tuple[str, Any] | tuple[str, Any, str]] = (),
    seconds: Mapping[str, float] | None = None,
    notes: Iterable[str] = (),
    prior_card: Mapping[str, Any] | None = None,
) -> Path:
    """Write a page, whole or not at all.

    rows: {"use", "metric", "value", "stderr", "baseline", "null", "bar", "verdict"}, absent ones left blank: numbers,
    texts, or for baselines {name: number}; a verdict is a bool or a text. pictures: (heading, picture, caption), a
    picture being a PIL image, PNG bytes, an SVG text (see `curve`) or the path of a PNG. seconds: by use, drawn as
    bars. notes: paragraphs. prior_card: facts by name. All texts are escaped.
    """
    parts = [f"<h1>{escape(title)}</h1>", f'<p class="lead">{escape(lead)}</p>' if lead else ""]
    if rows:
        parts += ["<h2>Measured</h2>", _table(rows)]
    if figures := [_figure(*p) for p in pictures]:
        parts += ["<h2>Seen</h2>", f'<div class="pictures">{"".join(figures)}</div>']
    if seconds:
        parts += [f"<h2>Time: {duration(sum(seconds.values()))}</h2>", _bars(seconds)]
    if texts := [f"<p>{escape(n)}</p>" for n in notes]:
        parts += ["<h2>Notes</h2>", *texts]
    if prior_card:
        facts = "".join(f"<dt>{escape(str(k))}</dt><dd>{escape(words(v))}</dd>" for k, v in prior_card.items())
        parts += ["<h2>The prior</h2>", f"<dl>{facts}</dl>"]
    from oneprior import __version__

    parts.append(f"<footer>oneprior {__version__}. This page is one file and asks nothing of any other host.</footer>")
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>\n{STYLE.read_text(encoding='utf-8')}</style>"
    )
    page = (
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body><main>\n{"".join(parts)}\n</main></body></html>\n'
    )
    write_text(Path(path), page)
    return Path(path)


def curve(
    x: Sequence[float], lines: Mapping[str, Sequence[float]], *, xlabel: str = "", ylabel: str = "", log: bool = False
) -> str:
    """Lines over x as an SVG for a report: its ink is that of the page, so it is readable in light and dark."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, FuncFormatter

    names = ("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color")
    style: dict[Any, Any] = {
        **dict.fromkeys(names, INK),
        "svg.fonttype": "none",
        "font.size": 11,
        "svg.hashsalt": f"{ylabel}{len(x)}",
    }
    with rc_context(style):
        figure = Figure(figsize=(6, 3.2), layout="constrained")
        axes = figure.add_subplot()
        for color, (name, y) in zip(("#3b6fd4", "#d97706", "#0b9a6d", "#a855f7"), lines.items(), strict=False):
            axes.plot(x, y, color=color, label=name, linewidth=1.6)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        if log:
            axes.set_yscale("log")
            for which in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
                which(FuncFormatter(lambda v, _: f"{v:g}"))
        axes.spines[["top", "right"]].set_visible(False)
        if len(lines) > 1:
            axes.legend(frameon=False)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    svg = out.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    return svg.replace(INK, "currentColor")


def raster(figure: Figure) -> Image:
    """A figure of matplotlib as a picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.frombytes("RGBA", canvas.get_width_height(), bytes(canvas.buffer_rgba())).convert("RGB")


def duration(seconds: float) -> str:
    """42 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.3g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def number(value: Any) -> str:
    """Four significant digits; what is no number as it is."""
    if isinstance(value, bool) or not isinstance(value, float | int):
        return "" if value is None else str(value)
    if isinstance(value, int) or abs(value) >= 1e4:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def with_error(value: Any, error: float | None) -> tuple[str, str]:
    """A figure and its standard error: the error with two digits, the value with as many decimals."""
    if error is None or not isinstance(value, float | int) or not 0 < error < float("inf"):
        return words(value), "" if error is None else number(error)
    places = max(0, 1 - floor(log10(error)))
    return f"{value:,.{places}f}", f"{error:,.{places}f}"


def words(value: Any) -> str:
    """A value for people: numbers by `number`, a mapping as "name value, name value"."""
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {words(v)}" for k, v in value.items() if v is not None)
    if isinstance(value, list | tuple):
        return ", ".join(map(words, value))
    return number(value)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    shown = [c for c in COLUMNS if any(r.get(c) is not None for r in rows)]
    head = "".join(f"<th>{c}</th>" for c in shown)
    body = "".join(f"<tr>{''.join(_cell(c, r) for c in shown)}</tr>" for r in rows)
    return f'<div class="wide"><table class="rows"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(column: str, row: Mapping[str, Any]) -> str:
    value = row.get(column)
    if column == "verdict" and value is not None:
        holds = value if isinstance(value, bool) else str(value).lower() in ("yes", "holds", "passes")
        fails = value is False or str(value).lower() in ("no", "fails")
        word = ("yes" if value else "no") if isinstance(value, bool) else str(value)
        return f'<td class="{"yes" if holds else "no" if fails else ""}">{escape(word)}</td>'
    text, error = with_error(value, row.get("stderr") if column == "value" else None)
    text = escape(text) + (f" <small>&plusmn; {escape(error)}</small>" if error else "")
    named = f' data-is="{column}"' if column in ("baseline", "null", "bar") and text else ""
    return f'<td class="{column}"{named}>{text}</td>'


def _bars(seconds: Mapping[str, float]) -> str:
    most = max(*seconds.values(), 1e-9)
    cells = [
        f'<span>{escape(k)}</span><i style="width:{100 * v / most:.1f}%"></i><span class="soft">{duration(v)}</span>'
        for k, v in seconds.items()
    ]
    return f'<div class="bars">{"".join(cells)}</div>'


def _figure(heading: str, picture: Any, caption: str = "") -> str:
    said = f"<figcaption><b>{escape(heading)}</b> {escape(caption)}</figcaption>"
    if isinstance(picture, str) and picture.lstrip().startswith("<svg"):
        return f"<figure>{picture}{said}</figure>"
    data = picture if isinstance(picture, bytes) else _png(picture)
    source = "data:image/png;base64," + base64.b64encode(data).decode()
    wide = int.from_bytes(data[16:20], "big") > 1000  # larger than the page: shrunk, not enlarged pixel by pixel
    smooth = ' class="smooth"' if wide else ""
    return f'<figure><img src="{source}" alt="{escape(heading)}"{smooth}>{said}</figure>'


def _png(picture: str | Path | Image) -> bytes:
    if isinstance(picture, str | Path):
        return Path(picture).read_bytes()
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
