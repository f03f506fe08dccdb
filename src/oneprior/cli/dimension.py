"""How many directions the data has at each picture, as a curve over times of noise (curve.svg) and one estimate. Of
pictures it ranks: simple ones, and those learned by heart, are low.

oneprior dimension digits digits --split test --n 16
oneprior dimension runs/photos suspicious.png --probes 16 --method lidl
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from oneprior.cli.settings import OnPictures, Writing


@dataclass(frozen=True, kw_only=True)
class DimensionSettings(Writing, OnPictures):
    method: Literal["flipd", "lidl", "normal_bundle", "flow_map"] = "flipd"
    """how it is read off the network"""
    probes: int | None = None
    """random probes of a trace, or noised copies (none: exact, one backward pass a dimension)"""


SETTINGS = DimensionSettings


def run(s: DimensionSettings, command: list[str]) -> int:
    from oneprior.cli.work import Work
    from oneprior.report import curve
    from oneprior.training.files import write_text

    work = Work(s)
    work.read("dimension")
    drawn: dict[str, Any] = {}
    out: Any = None
    for part, x in work.each("dimension"):
        how: dict[str, Any] = {"method": s.method, "count": s.probes, "seed": s.seed + part.start}
        out = work.add(work.prior.dimension(x, **how))
        for i, k in enumerate(part):
            drawn[work.names[k]] = out.curve[:, i].tolist()
            work.rows.append({"file": work.given.names[k], "dimension": float(out.x[i]), "curve": drawn[work.names[k]]})
    assert work.out is not None
    svg = curve(out.t, drawn, xlabel="t_0", ylabel="dimension")
    write_text(work.out / "curve.svg", svg)
    work.screen.table([{k: v for k, v in row.items() if k != "curve"} for row in work.rows])
    work.screen.say(f"curves (the first four): {work.out / 'curve.svg'}")
    return work.finish({"method": s.method, "probes": s.probes, "t": list(out.t)})
