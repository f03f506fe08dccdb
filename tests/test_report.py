"""The report: one file, nothing from outside, nothing a text could break."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from oneprior.report import curve, duration, number, with_error, write_report


class Page(HTMLParser):
    """Checks that tags close in order, and keeps what is said and where pictures come from."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.said, self.sources = "", []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [v for k, v in attrs if k in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said += data


def test_a_whole_page(tmp_path: Path) -> None:
    rows = [
        {"use": "classify", "metric": "accuracy", "value": 0.98765, "stderr": 0.00123, "baseline": {"logistic": 0.97}},
        {"use": "edit", "metric": "<b>", "value": None, "null": 0.5, "verdict": False, "bar": ">= 1 & 2"},
    ]
    path = write_report(
        tmp_path / "report.html",
        title="A & B",
        lead="<script>alert(1)</script>",
        rows=rows,
        pictures=[
            ("Grid", Image.new("L", (8, 8))),
            ("Loss", curve([1, 2, 3], {"a": [3.0, 2.0, 1.0]}, log=True), "said"),
        ],
        seconds={"train": 100.0, "sample": 23.0},
        notes=["one", "two"],
        prior_card={"shape": [1, 8, 8], "data": {"name": "digits"}},
    )
    html = path.read_text()
    page = Page(re.sub(r"<svg.*?</svg>", "", html, flags=re.S))
    assert "script" not in html.replace("&lt;script&gt;", "").replace("&lt;/script&gt;", "")
    assert all(s is not None and s.startswith("data:image/png;base64,") for s in page.sources)
    assert not re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?https?:", html)
    for text in ("A & B", "0.9877", "± 0.0012", "logistic 0.97", "<b>", ">= 1 & 2", "2 min 3 s", "1, 8, 8", "two"):
        assert text in page.said, text
    assert "currentColor" in html and "prefers-color-scheme:dark" in html and 'name="viewport"' in html
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_least(tmp_path: Path) -> None:
    assert "Measured" not in write_report(tmp_path / "r.html", title="t").read_text()


@pytest.mark.parametrize(
    ("value", "error", "said"),
    [(76.318, 2.303, ("76.3", "2.3")), (0.5611, 0.01253, ("0.561", "0.013")), (1234.0, 56.0, ("1,234", "56"))],
)
def test_an_error_says_how_many_digits_count(value: float, error: float, said: tuple[str, str]) -> None:
    assert with_error(value, error) == said


def test_numbers_and_times() -> None:
    assert [number(v) for v in (0.123456, 60032, 12345.6, None, True, "x")] == [
        "0.1235",
        "60,032",
        "12,346",
        "",
        "True",
        "x",
    ]
    assert [duration(s) for s in (0.664, 42.4, 200, 7500)] == ["0.664 s", "42 s", "3 min 20 s", "2 h 5 min"]
