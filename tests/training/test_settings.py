import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from oneprior.training.settings import TrainSettings, as_json, learning_rate


def test_settings_bring_no_torch() -> None:
    code = "import sys, oneprior.training.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"batch": 0}, "batch=0: expected an integer of at least 1"),
        ({"samples": None}, "no end"),
        ({"samples": None, "minutes": 1.0, "decay": "cosine"}, "needs samples"),
        ({"drop": 1.5}, "drop=1.5: expected a probability"),
        ({"averages": (0.3,)}, "between 0 and 0.28"),
        ({"averages": (0.1, 0.1)}, "widths that differ"),
        ({"decay": "step"}, "constant, cosine, linear, rsqrt"),
        ({"save_every": 0}, "save_every=0"),
        ({"precision": "fp16"}, "fp32 or bf16"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        TrainSettings(**wrong)


def test_learning_rates() -> None:
    s = TrainSettings(samples=1000, batch=10, warmup=100, lr=1.0)
    assert learning_rate(s, 0) == pytest.approx(0.1)
    assert learning_rate(s, 90) == learning_rate(s, 900) == 1.0
    cosine, linear = replace(s, decay="cosine"), replace(s, decay="linear", decay_from=500)
    assert learning_rate(cosine, 550) == pytest.approx(0.5)
    assert learning_rate(cosine, 1000) == pytest.approx(0.0)
    assert learning_rate(linear, 500) == 1.0
    assert learning_rate(linear, 750) == pytest.approx(0.5)
    assert learning_rate(replace(s, decay="rsqrt"), 400) == pytest.approx(0.5)


def test_only_what_leaves_the_numbers_alone_may_change_in_a_run() -> None:
    s = TrainSettings()
    assert replace(s, samples=5, workers=3, keep=9, minutes=1.0).differences(as_json(s)) == []
    assert replace(s, seed=1, lr=1.0).differences(as_json(s)) == ["seed: 0 -> 1", "lr: 0.0003 -> 1.0"]
    cosine = replace(s, decay="cosine")
    assert replace(cosine, samples=5).differences(as_json(cosine), 10_001) == ["samples: 1000000 -> 5"]
    late = replace(cosine, decay_from=50_000)
    for s, n in ((cosine, 10_000), (late, 50_000)):  # until the rate falls, its end decides nothing
        assert replace(s, samples=60_000).differences(as_json(s), n) == []
        assert learning_rate(replace(s, samples=60_000), n) == learning_rate(s, n)
        assert learning_rate(replace(s, samples=60_000), n + 128) != learning_rate(s, n + 128)
