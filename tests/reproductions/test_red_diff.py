"""RED-diff's figures, at a size that takes seconds."""

from oneprior.reproductions import reproduce


def test_quick() -> None:
    """Times must descend and the network is not differentiated; at 24 digits the other figures are within the noise."""
    found = reproduce("red-diff", "quick")
    figures = {(c.what, c.bar): c for c in found.checks}
    half = "PSNR of one run, descending, 50% of the pixels hidden"
    assert figures[half, ">= pinv + 4 dB"].holds and figures[half, ">= ascending + 1 dB"].holds
    assert figures["seconds of DPS over those of RED-diff, as many calls", "> 1.5"].measured > 1
    assert found.verdict in ("yes", "part") and {c.kind for c in found.checks} == {"check", "control", "uncalibrated"}
