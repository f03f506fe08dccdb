"""Sphinx settings: Markdown pages, furo's look. `make docs` builds them, and every warning is an error."""

import tomllib
from pathlib import Path

meta = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf8"))["project"]

project = meta["name"]
release = version = meta["version"]
author = meta["authors"][0]["name"]
copyright = author

extensions = ["myst_parser"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "results"]

html_theme = "furo"
html_title = project
