"""Muon: the polar factor, the size of a step, which weights it moves, skipped steps, exact resumption."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from training_standins import TinyDenoiser, TinyObjective, TinySource, tiny

from oneprior.conditions import Conditions, Label
from oneprior.nets import TokensConfig, build
from oneprior.training import checkpoint
from oneprior.training.optimisers import Muon, matrices, optimisers, polar
from oneprior.training.settings import TrainSettings
from oneprior.training.trainer import Trainer


@pytest.mark.parametrize("shape", [(24, 24), (24, 72), (72, 24)])
def test_polar_keeps_the_directions_and_evens_the_lengths(shape: tuple[int, int]) -> None:
    g = torch.Generator().manual_seed(0)
    u, _, vh = torch.linalg.svd(torch.randn(shape, generator=g), full_matrices=False)
    s = torch.logspace(0, -1.5, 24)
    found = polar(u * s @ vh * 1e3)
    core = u.mT @ found @ vh.mT
    assert (core - core.diag().diag()).abs().max() < 1e-4  # U and V are kept
    assert core.diag().min() > 0.65 and core.diag().max() < 1.25


def test_a_step_against_the_formula_by_hand() -> None:
    g = torch.Generator().manual_seed(1)
    w, grads = torch.randn(8, 16, generator=g), torch.randn(3, 8, 16, generator=g)
    p = nn.Parameter(w.clone())
    muon = Muon([p], lr=0.1, momentum=0.9, weight_decay=0.5)
    momentum = torch.zeros_like(w)
    for grad in grads:
        p.grad = grad.clone()
        muon.step()
        momentum = 0.9 * momentum + grad
        w = w - 0.1 * 0.5 * w - 0.1 * 0.2 * 4 * polar(grad + 0.9 * momentum)
    torch.testing.assert_close(p.data, w)


def test_a_step_has_the_root_mean_square_of_one_of_adamw() -> None:
    g = torch.Generator().manual_seed(2)
    p = nn.Parameter(torch.zeros(64, 256))
    p.grad = torch.randn(64, 256, generator=g)
    Muon([p], lr=1.0).step()
    assert p.detach().square().mean().sqrt() == pytest.approx(0.2, rel=0.2)


def test_it_moves_the_blocks_of_a_network_and_nothing_else() -> None:
    net = build(TokensConfig((16,), vocab=9, width=16, depth=2, heads=2, mlp=2, conv=3, tokens=8), seed=0)
    found = set(matrices(net))
    assert {"blocks.0.attention.q.weight", "blocks.1.mlp.3.weight", "blocks.0.cross.kv.weight"} <= found
    assert not found & {"embed.weight", "out.weight", "blocks.0.near.weight", "blocks.0.mlp.0.bias"}
    trained = dict(net.named_parameters())
    both = optimisers(net, trained, TrainSettings(optimiser="muon"))
    assert [type(o) for o, _ in both] == [Muon, torch.optim.AdamW]
    assert sorted(n for _, names in both for n in names) == sorted(trained)


def test_what_it_cannot_move() -> None:
    with pytest.raises(ValueError, match=r"Muon takes matrices; a parameter of shape \(3,\) came"):
        Muon([nn.Parameter(torch.zeros(3))], lr=0.1)
    with pytest.raises(ValueError, match="in the blocks of a network, and this one has none"):
        tiny(optimiser="muon")
    with pytest.raises(ValueError, match="optimiser='sgd': expected adamw or muon"):
        TrainSettings(optimiser="sgd")  # type: ignore[arg-type]


class Blocks(TinyDenoiser):
    """The stand-in with a block, so that there is a matrix to move."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(3)
        self.blocks = nn.ModuleList([nn.Linear(4, 4)])
        for p in self.blocks.parameters():
            p.data = torch.randn(p.shape, generator=g) / 2

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return super().forward(self.blocks[0](x), t, label)


def trainer(run: Path | None, samples: int = 96) -> Trainer:
    s = TrainSettings(
        samples=samples, batch=12, lr=0.01, warmup=24, optimiser="muon", averages=(0.1,), save_minutes=None
    )
    conditions = Conditions({"label": Label(("a", "b", "c"))})
    return Trainer(Blocks(), TinyObjective(), TinySource(), conditions=conditions, settings=s, run=run)


def test_a_run_goes_on_exactly(tmp_path: Path) -> None:
    whole = trainer(None)
    list(whole.fit())
    list(trainer(tmp_path / "r", samples=48).fit())
    rest = trainer(tmp_path / "r")
    list(rest.fit())
    assert any("resumed" in m for m in rest.messages)
    for (name, a), b in zip(whole.den.state_dict().items(), rest.den.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_gradient_that_is_not_finite_moves_nothing() -> None:
    p = nn.Parameter(torch.ones(4, 4))
    muon = Muon([p], lr=0.1)
    p.grad = torch.eye(4)
    muon.step()
    before, momentum = p.detach().clone(), muon.state[p]["momentum"].clone()
    p.grad = torch.full((4, 4), torch.nan)
    muon.found_inf = torch.tensor(1.0)
    muon.step()
    assert torch.equal(p, before) and torch.equal(muon.state[p]["momentum"], momentum)


def test_a_checkpoint_of_other_parameters_is_refused() -> None:
    p = nn.Parameter(torch.ones(2, 2))
    with pytest.raises(KeyError, match="state of parameters that are not trained: gone"):
        checkpoint.unpack_optimisers([(Muon([p], lr=0.1), ["here"])], {"gone/momentum": torch.zeros(2, 2)}, {})


def test_a_run_from_before_the_setting_goes_on() -> None:
    settings = TrainSettings()
    old = {k: v for k, v in settings.__dict__.items() if k != "optimiser"} | {
        "averages": [0.05, 0.1],
        "betas": [0.9, 0.999],
    }
    assert not settings.differences(old)
    assert TrainSettings(optimiser="muon").differences(old) == ["optimiser: None -> 'muon'"]
