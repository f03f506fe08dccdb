"""What is reproduced of video, at a size that takes seconds: controls hold, and what needs no training."""

from oneprior.reproductions import reproduce


def test_fvdm_quick() -> None:
    found = reproduce("fvdm", "quick")
    assert all(c.holds for c in found.checks if c.kind in ("check", "control")), found.why
    assert sum(c.what.startswith("p = 0.2") for c in found.checks) > 8


def test_video_survey_quick() -> None:
    found = reproduce("video-survey", "quick")
    figures = {c.what: c.measured for c in found.checks}
    assert all(c.holds for c in found.checks if c.kind in ("check", "control")), found.why
    assert figures["motion: blur, in nulls"] < 2 < 10 < figures["motion: jitter, in nulls"]
    assert figures["one distance of clips: blur, in nulls"] > figures["one distance of clips: jitter, in nulls"]
