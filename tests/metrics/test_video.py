"""Distances of clips: closed forms for AR(1), and what shuffled, frozen, shaken, blurred frames do to each."""

import pytest
import torch
from torch import Tensor

from helpers import ar1, draw, root, wasserstein2
from oneprior.data.moving import MovingDigits
from oneprior.metrics import flatten, frechet_distance, frechet_video
from oneprior.metrics.video import appearance, corruptions, motion, responses

F, N = 8, 4000
ROOT = root(ar1(F))


def sequences(seed: int) -> Tensor:
    """(N, 8, 4, 1, 1): four channels of AR(1), rho = 0.9, unit variance."""
    return torch.einsum("fg,ngc->nfc", ROOT, draw(N, F, 4, seed=seed))[..., None, None]


def differences(x: Tensor) -> Tensor:
    return x.diff(dim=1).flatten(1)


def test_the_distance_of_ar1_clips_is_known() -> None:
    """video-survey, proof 4, first without sampling: shuffled, any two frames have the mean correlation."""
    K = ar1(F)
    mean = (K.sum() - F) / (F * (F - 1))
    shuffled = mean + (1 - mean) * torch.eye(F).double()
    noisy = K + 0.09 * torch.eye(F)
    D = torch.eye(F).double()[1:] - torch.eye(F).double()[:-1]
    exact = [4 * wasserstein2(a, b) for a, b in ((K, shuffled), (K, noisy))]
    exact += [4 * wasserstein2(D @ K @ D.mT, D @ b @ D.mT) for b in (shuffled, noisy)]
    assert exact == pytest.approx([2.0371, 0.3609, 3.1940, 0.9675], rel=2e-4)
    real, other = sequences(0), sequences(1)
    changed = [corruptions()["shuffle"](other), other + 0.3 * draw(*other.shape, seed=2)]
    for features, wants in ((flatten, exact[:2]), (differences, exact[2:])):
        base = frechet_distance(features(real), features(other))
        got = [frechet_distance(features(real), features(x)) - base for x in changed]
        assert got == pytest.approx(wants, abs=0.15)
    order_blind = responses(lambda x: x.mean(1).flatten(1), real)
    assert order_blind["shuffle"] < 2, "and is so reported"


@pytest.mark.parametrize("speed", [(0.7, -0.4), (0.0, 0.0), (-0.5, 0.9)])
def test_motion_is_the_displacement(speed: tuple[float, float]) -> None:
    """A smooth blob that moves: v in pixels to a few hundredths, nothing unexplained; of nothing, 0."""
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    f = torch.arange(5.0)[:, None, None]
    blob = torch.exp(-((y - 12 - speed[0] * f) ** 2 + (x - 11 - speed[1] * f) ** 2) / 18)
    out = motion(blob[None, :, None].repeat(2, 1, 1, 1, 1)).reshape(2, 4, 3)[0]
    torch.testing.assert_close(out[:, :2], torch.tensor(speed).double().expand(4, 2), atol=0.04, rtol=0)
    assert out[:, 2].abs().max() < 0.02
    assert motion(torch.zeros(1, 3, 1, 8, 8)).abs().max() == 0


def test_each_distance_sees_its_own() -> None:
    """video-survey, proof 5, with features that are not trained: the acceptance rule for motion, on digits never shown,
    and frames of random clips, which look right and do not move right."""
    x = MovingDigits(8, 24, split="train").batch(range(500))["x"]
    seen = {name: responses(f, x) for name, f in (("appearance", appearance), ("motion", motion))}
    m, a = seen["motion"], seen["appearance"]
    assert min(m["shuffle"], m["freeze"], m["jitter"]) > 10
    assert m["blur"] < min(m["shuffle"], m["freeze"], m["jitter"])
    assert m["independent frames"] > 10 and a["independent frames"] < 2
    assert max(a[k] for k in ("shuffle", "freeze", "reverse")) < 2 and min(a["blur"], a["noise"]) > 3
    whole = frechet_video(x[:250], corruptions()["jitter"](x[250:]))
    assert whole.motion > 10 * whole.null_motion.mean and whole.appearance < 3 * whole.null_appearance.mean


def test_what_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match=r"real clips are \(4, 1, 8, 8\), generated ones \(5, 1, 8, 8\)"):
        frechet_video(torch.zeros(9, 4, 1, 8, 8), torch.zeros(9, 5, 1, 8, 8))
    with pytest.raises(ValueError, match="two frames or more"):
        motion(torch.zeros(3, 1, 1, 8, 8))
