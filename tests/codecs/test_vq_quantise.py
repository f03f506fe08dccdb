"""Quantisers: indices and codes, running means, dead codes, gradients."""

import math

import pytest
import torch
from torch import Tensor

from oneprior.codecs.vq import FSQ, Codebook, VQConfig, perplexity, usage
from oneprior.codecs.vq.config import PRESETS
from oneprior.codecs.vq.quantise import EPS, nearest, project, quantiser, rotate, straight


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def config(**fields: object) -> VQConfig:
    return VQConfig(**{"shape": (1, 8, 8), "codes": 16, "dim": 4, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize("codes", PRESETS)
def test_fsq_numbers_every_code_once(codes: int) -> None:
    q = FSQ(config(levels=PRESETS[codes]))
    table, every = q.table(), torch.arange(codes)
    assert table.shape == (codes, len(PRESETS[codes])) and len(torch.unique(table, dim=0)) == codes
    assert table.abs().max() == 1
    z = torch.atanh(table * (1 - 1e-6))  # what the bound takes to the code
    assert torch.equal(q(z).indices, every)
    torch.testing.assert_close(q(z).out, table)
    assert torch.equal(nearest(table, table), every)


def test_fsq_rounds_to_the_nearest_and_lets_the_gradient_of_its_bound_through() -> None:
    q, z = FSQ(config(levels=(8, 5, 5))), (2 * draw(7, 3, 3)).requires_grad_()
    out, index, loss = q(z)
    assert torch.equal(index, nearest(z.tanh(), q.table())) and torch.equal(q.code(index), q.table()[index])
    torch.testing.assert_close(out, q.code(index))
    (g,) = torch.autograd.grad((out * (w := draw(7, 3, 3, seed=1))).sum(), z)
    torch.testing.assert_close(g, w * (1 - z.detach().tanh() ** 2))
    assert loss.shape == (7, 3) and not loss.any()


def begun(book: Codebook, codes: Tensor, hits: float = 1.0) -> Codebook:
    with torch.no_grad():
        book.codes.copy_(codes)
        book.total.fill_(hits)
        book.sums.copy_(codes * hits)
        book.begun.fill_(True)
    return book.train()


def test_codes_are_running_means() -> None:
    c = config(decay=0.8, reset=0.0)
    book, codes = begun(Codebook(c), draw(16, 4), 3.0), draw(16, 4)
    total, sums = torch.full((16,), 3.0), codes * 3
    for step in (1, 2):
        z = draw(50, 4, seed=step)
        hot = torch.nn.functional.one_hot(torch.cdist(z, codes).argmin(1), 16).float()
        assert torch.equal(book(z).indices, hot.argmax(1))
        book.update(50 * step)
        total, sums = 0.8 * total + 0.2 * hot.sum(0), 0.8 * sums + 0.2 * hot.T @ z
        n = (total + EPS) / (total.sum() + 16 * EPS) * total.sum()
        codes = sums / n[:, None]
        for mine, theirs in ((book.total, total), (book.sums, sums), (book.table(), codes)):
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def test_micro_batches_teach_what_their_batch_does() -> None:
    whole, parts = (begun(Codebook(config()), draw(16, 4)) for _ in range(2))
    z = draw(64, 4, seed=3)
    whole(z)
    for part in z.split(24):
        parts(part)
    for book in (whole, parts):
        book.update(64)
    assert usage(whole(z).indices, 16) > 0.5
    torch.testing.assert_close(parts.table(), whole.table())


def test_a_step_with_a_nan_teaches_nothing_and_neither_does_looking() -> None:
    book = begun(Codebook(config()), draw(16, 4), 9.0)
    before = {k: v.clone() for k, v in book.state_dict().items()}
    book(draw(20, 4) / torch.tensor([1.0, 1.0, 0.0, 1.0]))
    book.update(20)
    with torch.no_grad():
        book(draw(20, 4))
    book.eval()(draw(20, 4))
    book.update(40)
    assert all(torch.equal(v, before[k]) for k, v in book.state_dict().items())


def test_dead_codes_become_vectors_of_the_step_by_its_number() -> None:
    """Two codes of sixteen lie where the data is; without replacement the others stay unused."""
    z = draw(256, 4)
    far = torch.cat([z[:2], 50 + draw(14, 4)])
    left = begun(Codebook(config(decay=0.2, reset=0.0)), far)
    books = [begun(Codebook(config(decay=0.2, seed=s)), far) for s in (0, 0, 1)]
    for step in range(1, 5):
        for book in (left, *books):
            book(z)
            book.update(256 * step)
        if step == 1:
            new = books[0].table()[2:]
            assert all((row == z).all(1).any() for row in new) and len(torch.unique(new, dim=0)) == 14
    one, same, other = (b.table() for b in books)
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert usage(left.eval()(z).indices, 16) <= 2 / 16 and usage(books[0].eval()(z).indices, 16) == 1


def test_first_vectors_are_the_first_codes_even_if_they_are_few() -> None:
    book, z = Codebook(config()).train(), draw(5, 4)
    assert torch.equal(torch.unique(book(z).indices), torch.unique(nearest(z, book.codes)))
    assert all((row == z).all(1).any() for row in book.codes)
    torch.testing.assert_close(book.table()[book.eval()(z).indices], z)


@pytest.mark.parametrize("cosine", [False, True])
def test_gradient_goes_straight_through_with_the_commitment(cosine: bool) -> None:
    book, z = begun(Codebook(config(cosine=cosine)), draw(16, 4)), draw(9, 4, seed=1).requires_grad_()
    p = torch.nn.functional.normalize(z, dim=-1) if cosine else z
    out, index, loss = book(z)
    e = book.table()[index].detach()
    torch.testing.assert_close(out, e)
    if cosine:
        torch.testing.assert_close(e.norm(dim=-1), torch.ones(9))
    w = draw(9, 4, seed=2)
    (g,) = torch.autograd.grad((out * w).sum() + loss.sum(), z, retain_graph=True)
    (wanted,) = torch.autograd.grad((p * w).sum() + 0.25 * (p - e).square().mean(-1).sum(), z)
    torch.testing.assert_close(g, wanted)
    assert not book.codes.requires_grad


def test_rotation_turns_the_gradient_with_the_vector() -> None:
    z, e = draw(20, 5).double().requires_grad_(), draw(20, 5, seed=1).double()
    out = rotate(z, e)
    torch.testing.assert_close(out, e)
    turn = torch.stack([torch.autograd.grad(out[:, i].sum(), z, retain_graph=True)[0] for i in range(5)], 1)
    scale = (e.norm(dim=1) / z.detach().norm(dim=1))[:, None, None]
    eye = torch.eye(5, dtype=torch.float64).expand(20, 5, 5)
    torch.testing.assert_close((turn / scale) @ (turn / scale).mT, eye)  # a turn, nothing else
    torch.testing.assert_close(torch.linalg.det(turn / scale), torch.ones(20, dtype=torch.float64))
    torch.testing.assert_close((turn @ z.detach()[..., None])[..., 0], e)
    flat = straight(z, e)
    torch.testing.assert_close(torch.autograd.grad(flat.sum(), z)[0], torch.ones_like(z))


def test_a_codebook_without_decay_learns_by_its_gradient() -> None:
    book = begun(Codebook(config(decay=None, reset=0.0)), draw(16, 4))
    z = draw(9, 4, seed=1).requires_grad_()
    out, index, loss = book(z)
    (g,) = torch.autograd.grad((out * 3).sum() + loss.sum(), book.codes)
    wanted = torch.zeros(16, 4).index_add_(0, index, (book.codes[index] - z).detach() * 2 / 4)
    torch.testing.assert_close(g, wanted)
    before = book.codes.detach().clone()
    book.update(9)
    assert torch.equal(book.codes, before)


def test_usage_and_perplexity() -> None:
    index = torch.tensor([[0, 0, 3], [3, 5, 5]])
    assert usage(index, 8) == 3 / 8
    assert perplexity(index) == pytest.approx(3)
    assert perplexity(torch.tensor([0, 0, 0, 1])) == pytest.approx(
        math.exp(0.75 * math.log(4 / 3) + 0.25 * math.log(4))
    )
    assert perplexity(torch.zeros(9, dtype=torch.int64)) == pytest.approx(1)


@pytest.mark.parametrize("fields", [{}, {"levels": (8, 6, 5)}, {"cosine": True}])
def test_any_quantiser_is_the_nearest_code_of_its_table(fields: dict[str, object]) -> None:
    c = config(**fields)
    q, z = quantiser(c).train(), draw(3, 4, 5, c.dim, seed=4)
    out, index, loss = q(z)
    assert out.shape == z.shape and index.shape == loss.shape == z.shape[:-1]
    assert torch.equal(index, nearest(project(z, c), q.table()))
