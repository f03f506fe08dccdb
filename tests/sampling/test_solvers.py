"""Each solver's numbers against its paper's formula, against quadrature, and against each other (principles-solvers,
proof 2)."""

from dataclasses import dataclass
from math import atan2, exp, expm1, hypot, log
from typing import Any

import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from helpers import SCHEDULES, Normal, Simple, draw
from oneprior import paths
from oneprior.exact import Mixture
from oneprior.noise import Seeded
from oneprior.posterior import EDMPrediction
from oneprior.sampling import DDIM, SAMPLERS, Adams, Heun, Langevin, Multistep, Solver, grids, sample, sampler, walk
from oneprior.sampling.solvers import Angle, Band, Data, Eps, Form, Sbar, adams, bh1, bh2, fixed, halved
from oneprior.schedules import EDM, VP, Cosine, Eta, RectifiedFlow, Schedule

BENT = lambda x, t, **_: torch.tanh(1.3 * x) * 0.8 + 0.1 * x.roll(1, -1)  # noqa: E731
NAMES = [name for name, s in SAMPLERS.items() if not s.solver.variance]  # those that every denoiser serves
TIMES = [0.95, 0.8, 0.62, 0.5, 0.29, 0.2]  # uneven in every clock
FORMS: list[Form] = [Data(), Eps(), Sbar(), Angle(0.7)]


def run(solver: Solver, times: list[float], x: Tensor, schedule: Schedule | None = None) -> list[Tensor]:
    """x at every time, by the real walk with a denoiser that is nothing linear."""
    den = Simple(BENT, schedule or VP())
    return [x, *(out.x for out in walk(den, x, paths.sync(times), solver, Seeded(range(len(x)))))]


def numbers(times: list[float], schedule: Schedule) -> tuple[list[float], list[float], list[float]]:
    a, _, s = zip(*(schedule.at(t) for t in times), strict=True)
    return list(a), list(s), [schedule.lam(t) for t in times]


# UniPC, 3M, SDE-2M, DEIS, iPNDM, LMS as they are written in their papers


def unipc(x: Tensor, times: list[float], order: int, bh: int, correct: bool) -> Tensor:
    """R rho = b with b_m = m! P_{m+1} / B; the corrector from the old x, its D kept (Zhao et al. 2023)."""
    a, s, lam = numbers(times, VP())
    D: list[Tensor] = []
    old = x
    for i in range(len(times) - 1):  # the point reached last is not asked about, hence not corrected
        D = [BENT(x, 0.0), *D]
        for correcting in (True, False):
            if correcting and (i == 0 or not correct):
                continue
            j = i - 1 if correcting else i  # the step j -> j + 1
            past = D[1:] if correcting else D
            start = old if correcting else x
            p = min(order, j + 1)
            h = lam[j + 1] - lam[j]
            hh = -h
            B = expm1(hh) if bh == 2 else hh
            r = [(lam[j - k] - lam[j]) / h for k in range(1, p)]
            d = [(past[k] - past[0]) / r[k - 1] for k in range(1, p)]
            if correcting:
                r, d = [*r, 1.0], [*d, D[0] - past[0]]
            P, b = expm1(hh) / hh - 1, []
            factorial = 1.0
            for m in range(1, len(r) + 1):
                factorial *= m
                b.append(factorial * P / B)
                P = P / hh - 1 / (factorial * (m + 1))
            if len(r) == 1:
                rho = torch.tensor([0.5], dtype=torch.float64)
            elif r:
                R = torch.tensor([[v**m for v in r] for m in range(len(r))], dtype=torch.float64)
                rho = torch.linalg.solve(R, torch.tensor(b, dtype=torch.float64))
            else:
                rho = torch.zeros(0)
            new = s[j + 1] / s[j] * start - a[j + 1] * expm1(hh) * past[0]
            new = new - a[j + 1] * B * sum(c * v for c, v in zip(rho, d, strict=True))
            if correcting:
                x = new
            else:
                old, x = x, new
    return x


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("bh", [1, 2])
@pytest.mark.parametrize("correct", [True, False])
def test_unipc_is_the_published_system(order: int, bh: int, correct: bool) -> None:
    x = draw(3, 5)
    got = run(Adams(order, corrector=correct, rule=(bh1, bh2)[bh - 1]), TIMES, x)[-1]
    torch.testing.assert_close(got, unipc(x, TIMES, order, bh, correct), rtol=1e-10, atol=1e-10)


def test_unipc2_without_a_corrector_is_2m() -> None:
    for schedule, kappa in ((VP(), 0.0), (RectifiedFlow(), 0.0), (EDM(), 1.0)):
        path = paths.sync(grids.cosine_time(schedule, 12))
        for ours, theirs in zip(
            Adams(2, kappa=kappa, rule=bh2).plan(schedule, path), Multistep(kappa).plan(schedule, path), strict=True
        ):
            (a,), (b,) = ours.rows, theirs.rows
            assert (a.keep, a.std, a.anchor, a.last) == (b.keep, b.std, b.anchor, b.last)
            assert a.w == pytest.approx(b.w, rel=1e-12, abs=1e-12) and len(a.w) == len(b.w)


@pytest.mark.parametrize("kappa", [0.0, 0.4, 1.0])
def test_3m_and_the_sde_form(kappa: float) -> None:
    """x_s = DDIM + a_s (phi2 D1 - phi3 D2), phi2 = (e^-H - 1)/H + 1, phi3 = phi2/H - 1/2, H = (1 + kappa) h."""
    (a, s, lam), x = numbers(TIMES, VP()), draw(3, 5)
    D: list[Tensor] = []
    want, noise = x, Seeded(range(3))
    for i in range(len(TIMES) - 1):
        D = [BENT(want, 0.0), *D]
        h = lam[i + 1] - lam[i]
        H = (1 + kappa) * h
        phi2 = expm1(-H) / H + 1
        new = s[i + 1] / s[i] * exp(-kappa * h) * want - a[i + 1] * expm1(-H) * D[0]
        if i == 1:
            new = new + a[i + 1] * phi2 * (D[0] - D[1]) * h / (lam[1] - lam[0])
        elif i > 1:
            r0, r1 = (lam[i] - lam[i - 1]) / h, (lam[i - 1] - lam[i - 2]) / h
            d0, d1 = (D[0] - D[1]) / r0, (D[1] - D[2]) / r1
            D1, D2 = d0 + r0 / (r0 + r1) * (d0 - d1), (d0 - d1) / (r0 + r1)
            new = new + a[i + 1] * (phi2 * D1 - (phi2 / H - 0.5) * D2)
        z = noise(i + 1, x)
        want = new + s[i + 1] * (-expm1(-2 * kappa * h)) ** 0.5 * z
    torch.testing.assert_close(run(Adams(3, kappa=kappa, rule=halved), TIMES, x)[-1], want, rtol=1e-10, atol=1e-10)


def test_deis_is_its_closed_form() -> None:
    """EAB-2 in eps: x_s = (a_s/a_t) x - a_s sbar_t [(1 - e^-h) e_i + (1 - e^-h - h e^-h) (e_i - e_{i-1}) / h_prev]."""
    (a, s, lam), x = numbers(TIMES, VP()), draw(3, 5)
    before, want = None, x
    for i in range(len(TIMES) - 1):
        eps, h = (want - a[i] * BENT(want, 0.0)) / s[i], lam[i + 1] - lam[i]
        slope = 0.0 if before is None else (eps - before) / (lam[i] - lam[i - 1])
        move = -expm1(-h) * eps + (-expm1(-h) - h * exp(-h)) * slope
        want, before = a[i + 1] / a[i] * want - a[i + 1] * s[i] / a[i] * move, eps
    torch.testing.assert_close(run(Adams(2, Eps()), TIMES, x)[-1], want, rtol=1e-10, atol=1e-10)


BASHFORTH = [[1.0], [3 / 2, -1 / 2], [23 / 12, -16 / 12, 5 / 12], [55 / 24, -59 / 24, 37 / 24, -9 / 24]]
MOULTON = [[1 / 2, 1 / 2], [5 / 12, 8 / 12, -1 / 12], [9 / 24, 19 / 24, -5 / 24, 1 / 24]]


def test_ipndm_has_the_weights_of_a_uniform_grid_and_lms_those_of_its_own() -> None:
    """x_s / a_s = x / a_t + (sbar_s - sbar_t) e; on a grid uniform in sbar the two are one."""
    for times in (TIMES, [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]):
        plan = Adams(4, Sbar(), rule=fixed).plan(EDM(), paths.sync(times))
        for i, stage in enumerate(plan):
            (row,), want = stage.rows, BASHFORTH[min(i, 3)]
            assert row.keep == 1.0
            assert row.w == pytest.approx([80 * (stage.s - stage.t) * c for c in want], rel=1e-12)
    even = [row for st in Adams(4, Sbar()).plan(EDM(), paths.sync(times)) for row in st.rows]
    assert [r.w for r in even] == [pytest.approx(st.rows[0].w, rel=1e-10) for st in plan]
    corrected = Adams(3, Sbar(), corrector=True, rule=fixed).plan(EDM(), paths.sync(TIMES))
    for i, stage in enumerate(corrected[1:]):
        before = TIMES[i + 1] - TIMES[i]
        assert stage.rows[0].back and stage.rows[0].lag == 1
        assert stage.rows[0].w == pytest.approx([80 * before * c for c in MOULTON[min(i, 2)]], rel=1e-12)


def lagrange(tau: Tensor, j: int, at: float) -> float:
    out = 1.0
    for k, v in enumerate(tau.tolist()):
        out *= 1.0 if k == j else (at - v) / (float(tau[j]) - v)
    return out


@pytest.mark.parametrize(
    "H", [-30.0, -3.0, -1.0, -0.99, -0.05, -1e-6, 0.0, 1e-9, 0.02, 0.0999, 0.1, 0.99, 1.0, 2.5, 40.0]
)
@pytest.mark.parametrize("tau", [[0.0], [0.0, -0.7], [1.0, 0.0, -1.3], [0.0, -0.2, -2.0, -3.1, -9.0]], ids=len)
def test_exact_weights_integrate_the_interpolating_polynomial(H: float, tau: list[float]) -> None:
    """Against adaptive quadrature of each Lagrange polynomial under e^(-H (1 - tau)), from tiny steps to huge ones."""
    nodes = torch.tensor(tau, dtype=torch.float64)
    (got,) = adams.exact(nodes[None], torch.tensor([H], dtype=torch.float64)).tolist()

    def weight(v: float) -> float:
        return exp(-H * (1 - v) if H > 0 else H * v)

    tip = [min(max(0.5 / max(abs(H), 1), 0.0), 1.0)]
    ends = [1 - tip[0]] if H > 0 else tip
    area = quad(weight, 0, 1, epsabs=0, epsrel=1e-13, points=ends)[0]
    for j, c in enumerate(got):
        want = quad(lambda v: weight(v) * lagrange(nodes, j, v), 0, 1, epsabs=1e-14, points=ends)[0] / area  # noqa: B023
        assert c == pytest.approx(want, rel=1e-9, abs=1e-11)


# forms


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("name", ["vp", "ve", "rf", "cosine", "trigflow", "linear betas"])
@pytest.mark.parametrize("correct", [False, True])
def test_a_polynomial_view_is_integrated_exactly(form: Form, name: str, correct: bool) -> None:
    """Three nodes and a view that is a parabola in its clock: the step is the ODE's, by quadrature of the exact forms
    (x_s = (s_s/s_t) x + s_s int e^lam D dlam; with eps; and x/r - int F dphi)."""
    schedule, times, x = SCHEDULES[name], [0.9, 0.8, 0.62, 0.5, 0.45], 0.7
    (a_t, _, s_t), (a_s, _, s_s) = schedule.at(0.62), schedule.at(0.5)

    def m(v: float) -> float:
        return 0.3 - 0.8 * v / 5 + 0.5 * (v / 5) ** 2

    def clock(t: float) -> float:
        a, _, s = schedule.at(t)
        return {Data: log(a / s), Eps: log(a / s), Sbar: s / a, Angle: atan2(s, 0.7 * a)}[type(form)]

    plan = Adams(2 if correct else 3, form, corrector=correct).plan(schedule, paths.sync(times))
    row = plan[3].rows[0] if correct else plan[2].rows[0]
    nodes = times[3:0:-1] if correct else times[2::-1]
    got = row.keep * x + sum(w * m(clock(t)) for w, t in zip(row.w, nodes, strict=True))
    assert row.back == correct and len(row.w) == 3

    def area(f: Any, begin: float, end: float) -> float:
        return quad(f, begin, end, epsabs=0, epsrel=1e-12)[0]

    ends = clock(0.62), clock(0.5)
    if isinstance(form, Data):
        want = s_s / s_t * x + s_s * area(lambda v: exp(v) * m(v), *ends)
    elif isinstance(form, Angle):
        want = hypot(a_s * 0.7, s_s) * (x / hypot(a_t * 0.7, s_t) - area(m, *ends))
    elif isinstance(form, Sbar):
        want = a_s * (x / a_t + area(m, *ends))
    else:
        want = a_s / a_t * x - a_s * area(lambda v: exp(-v) * m(v), *ends)
    assert got == pytest.approx(want, rel=1e-10)


def test_the_angle_is_edms_preconditioning() -> None:
    """view F = (D - c_skip x) / c_out, c_skip = a sd^2 / r^2, c_out = s sd / r; at alpha = 0 it is D / sd."""
    for name in ("vp", "ve", "rf", "cosine"):
        schedule, x = SCHEDULES[name], draw(4, 3)
        for t in (1e-4, 0.3, 1.0):
            post = Simple(BENT, schedule)(x, t)
            row = EDMPrediction(0.7).row(schedule, t)
            torch.testing.assert_close(Angle(0.7).view(post), (post.mean - row.p * x) / row.q, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("angle", [Angle(), Angle(0.3, 1.0, 0.45), Angle(0.7, 1.5), Angle(1.2, 3.0, 0.4)], ids=str)
@pytest.mark.parametrize("name", ["vp", "ve", "rf", "cosine", "trigflow"])
def test_the_view_of_an_angle_is_the_slope_of_its_ode(angle: Angle, name: str) -> None:
    """du/dphi = -m with u = x/r, by central differences of the exact ODE of a Gaussian that no angle is exact for."""
    schedule, law = SCHEDULES[name], 0.09

    def at(t: float) -> tuple[float, float, float]:  # x on a trajectory, u and phi
        a, _, s = schedule.at(t)
        x = a * 0.4 + (a * a * law + s * s) ** 0.5
        return x, x / ((angle.c * a) ** angle.p + s**angle.p) ** (1 / angle.p), atan2(s, (angle.q or angle.c) * a)

    den = Normal(torch.tensor([0.4], dtype=torch.float64), torch.tensor([[law]]).double(), schedule)
    for t in (0.05, 0.3, 0.7, 0.95):
        (_, u, phi), (_, v, psi) = at(t - 1e-5), at(t + 1e-5)
        view = angle.view(den(torch.tensor([[at(t)[0]]], dtype=torch.float64), t))
        assert -float(view) == pytest.approx((v - u) / (psi - phi), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(
    "solver",
    [Adams(1, Angle(0.7)), Adams(3, Angle(0.7)), Adams(2, Angle(0.7), corrector=True)],
    ids=["order 1", "order 3", "order 2, corrected"],
)
def test_the_angle_is_exact_on_its_gaussian(name: str, solver: Solver) -> None:
    """Data N(0, sd^2): from t = 1 to t = 0 in 1, 2 or 7 steps, alpha = 0 and sigma = 0 included, x_0 = sd x / r."""
    schedule = SCHEDULES[name]
    den, x = Normal(torch.zeros(3), 0.49 * torch.eye(3).double(), schedule), draw(4, 3)
    a, _, s = schedule.at(1.0)
    for n in (1, 2, 7):
        *_, out = walk(den, x, paths.sync(grids.uniform_time(schedule, n)), solver, Seeded(range(4)))
        torch.testing.assert_close(out.x, 0.7 * x / hypot(0.7 * a, s), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("start", ["cosine", "rf", "linear betas, zero snr", "ve", "vp"])
def test_ends_are_limits(name: str, start: str) -> None:
    """alpha = 0 and sigma = 0 at once, in one step or many, and up the ODE: finite; one step without history is D."""
    schedule, x = SCHEDULES[start], draw(3, 5)
    den, at_one = Simple(BENT, schedule), schedule.at(1.0)
    for n in (1, 2, 3, 9):
        out = sample(den, x.shape, steps=n, sampler=name, seeds=range(3), start=x)
        assert bool(torch.isfinite(out).all())
        if n == 1 and name != "angle3":
            torch.testing.assert_close(out, BENT(x, 1.0), rtol=1e-9, atol=1e-9 if at_one[0] == 0 else 1e-6)
    for top in (0.9, 1.0):
        *_, up = walk(den, x, paths.invert([0.0, 0.2, 0.5, top]), SAMPLERS[name].solver, Seeded(range(3)))
        assert bool(torch.isfinite(up.x).all())


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_inversion_is_of_the_order_too(form: Form) -> None:
    schedule, mean, var = VP(), torch.tensor([0.3, -0.7]).double(), torch.tensor([0.25, 0.04]).double()
    den, x, errors = Normal(mean, torch.diag(var), schedule), draw(8, 2), []
    for n in (64, 128):
        lo, hi = schedule.lam(0.98), schedule.lam(0.01)
        times = [schedule.time(hi + (lo - hi) * i / n) for i in range(n + 1)]
        *_, out = walk(den, x, paths.invert(times), Adams(3, form, corrector=True), Seeded(range(8)))
        (a, _, s), (b, _, u) = schedule.at(times[0]), schedule.at(times[-1])
        want = b * mean + (x - a * mean) * ((b * b * var + u * u) / (a * a * var + s * s)).sqrt()
        errors.append(float((out.x - want).norm(dim=1).mean()))
    assert errors[1] < errors[0] / 6 and errors[1] < 1e-3


@dataclass(frozen=True)
class Towards(RectifiedFlow):
    """Rectified flow with an anchor that comes and goes."""

    def coefs(self, t: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        a, _, s = super().coefs(t)
        return a, t * (1.2 - t), s


@pytest.mark.parametrize("name", NAMES)
def test_an_anchor_is_carried_along(name: str) -> None:
    """x - b y walks under an anchored schedule as x does without, in every form."""
    y, x, solver = draw(3, 5, seed=1), draw(3, 5), SAMPLERS[name].solver
    path = paths.sync([1.0, 0.8, 0.5, 0.3, 0.1])

    def beyond(x: Tensor, t: float, y: Tensor) -> Tensor:
        return BENT(x - Towards().at(t)[1] * y, t)

    plain = list(walk(Simple(BENT, RectifiedFlow()), x, path, solver, Seeded(range(3))))
    begin = x + Towards().at(1.0)[1] * y
    for a, b in zip(walk(Simple(beyond, Towards()), begin, path, solver, Seeded(range(3)), y=y), plain, strict=True):
        torch.testing.assert_close(a.x - Towards().at(a.s)[1] * y, b.x, rtol=1e-10, atol=1e-10)


# orders, tapers, settings


def test_order_grows_with_the_history_and_tapers_to_the_end() -> None:
    path = paths.sync([*TIMES, 0.1, 0.05, 0.0])
    orders = lambda solver: [len(st.rows[-1].w) for st in solver.plan(VP(), path)]  # noqa: E731
    assert orders(Adams(3)) == [1, 2, 3, 3, 3, 3, 3, 1]  # the last step of the data form is infinite
    assert orders(Adams(3, taper=True)) == [1, 2, 3, 3, 3, 3, 2, 1]
    assert orders(Adams(4, Sbar())) == [1, 2, 3, 4, 4, 4, 4, 4]
    assert orders(Adams(4, Sbar(), taper=True)) == [1, 2, 3, 4, 4, 3, 2, 1]
    correctors = [[r for r in st.rows if r.back] for st in Adams(2, corrector=True).plan(VP(), path)]
    assert [len(c) for c in correctors] == [0, 1, 1, 1, 1, 1, 1, 1]  # each call but the first corrects the step to it
    assert [len(c[0].w) for c in correctors[1:]] == [2, 3, 3, 3, 3, 3, 3]
    assert all(isinstance(v, float) for c in correctors[1:] for v in (c[0].keep, *c[0].w))


@pytest.mark.parametrize("name", NAMES)
def test_one_call_a_step_and_memory_is_handed_on(name: str) -> None:
    """A corrector costs no call; a row is `last` where no later row goes back to the x it starts from."""
    den = Simple(BENT, VP())
    sample(den, (2, 5), steps=10, sampler=name, seeds=[1, 2])
    assert len(den.calls) == {"heun": 19, "langevin": 19}.get(name, 10)
    rows = [row for st in SAMPLERS[name].solver.plan(VP(), paths.sync(grids.cosine_time(VP(), 10))) for row in st.rows]
    assert [r.last for r in rows] == [not after.back for after in rows[1:]] + [True]
    assert all(isinstance(v, float) for r in rows for v in (r.keep, *r.w, r.anchor, r.std))
    assert all(len(r.w) == 1 or r.w[-1] != 0.0 for r in rows)


@pytest.mark.parametrize("name", NAMES)
def test_a_rise_begins_a_new_history(name: str) -> None:
    """After a restart the rows are those of a path that begins there: no solver looks back across fresh noise."""
    solver, fall = SAMPLERS[name].solver, list(grids.cosine_time(VP(), 9))
    path = paths.restart(fall, low=fall[6], high=fall[2], repeats=1)
    kinds = path.kinds.index("renoise")
    plan = solver.plan(VP(), path)
    again = [st for st in plan if st.leg > kinds]
    fresh = solver.plan(VP(), paths.sync(path.matrix[kinds + 1 :, 0].tolist()))
    assert [st.rows for st in again] == [st.rows for st in fresh]
    (rise,) = [st for st in plan if st.leg == kinds]
    assert not rise.call and rise.rows[0].keep == VP().at(fall[2])[0] / VP().at(fall[6])[0] and not rise.rows[0].back


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="order of at least 1"):
        Adams(0)
    with pytest.raises(ValueError, match="needs form=Data"):
        Adams(2, Eps(), kappa=1.0)
    for wrong in ((0.0, 2.0, None), (0.5, 0.5, None), (0.5, 2.0, -1.0)):
        with pytest.raises(ValueError, match="c > 0, p >= 1"):
            Angle(*wrong)
    with pytest.raises(ValueError, match="size in"):
        Langevin(size=1.5)
    with pytest.raises(ValueError, match="amount >= 0"):
        paths.churn([1.0, 0.5, 0.0], VP(), -1.0)
    with pytest.raises(ValueError, match="'unipc5' is not known"):
        sampler("unipc5")


# churn


def test_churn_is_edms() -> None:
    """sbar rises by 1 + min(S_churn/N, sqrt 2 - 1) inside [S_min, S_max] with noise S_noise sqrt(hat^2 - sbar^2)."""
    schedule = EDM()
    times = grids.karras(schedule, 8, low=0.002 / 80)
    for amount, gamma in ((2.0, 0.25), (40.0, 2**0.5 - 1)):
        path = paths.churn(times, schedule, amount, 0.05, 50.0)
        inside = [t for t in times[:-1] if 0.05 <= 80 * t <= 50]
        ups = [
            (t.item(), s.item())
            for t, s, k in zip(path.matrix, path.matrix[1:], path.kinds, strict=False)
            if k == "renoise"
        ]
        assert [t for t, _ in ups] == pytest.approx(inside, rel=1e-12)
        assert [s for _, s in ups] == pytest.approx([t * (1 + gamma) for t in inside], rel=1e-12)
        plan = Heun(swell=1.003).plan(schedule, path)
        stds = [st.rows[0].std for st in plan if not st.call]
        assert stds == pytest.approx([1.003 * 80 * t * ((1 + gamma) ** 2 - 1) ** 0.5 for t in inside], rel=1e-10)
        assert sum(st.call for st in plan) == 2 * 8 - 1
    assert paths.churn(times, schedule, 0.0).matrix.shape == (9, 1)
    assert paths.churn([1.0, 0.5, 0.0], Cosine(), 40.0).kinds == ("solve", "renoise", "solve")  # sbar = inf stays


def test_churn_is_one_path_in_every_schedule() -> None:
    """Given in sigma/alpha, so the same levels under VP and EDM, and the same samples from the same noise."""
    ends = []
    for schedule in (EDM(), VP(), RectifiedFlow()):
        law = Mixture([0.5, 0.5], [[-1.0, 0.3], [1.0, 0.0]], 0.01).denoiser(schedule)
        times = [schedule.time(-log(20.0) + log(1000.0) * i / 12) for i in range(12)] + [0.0]
        path = paths.churn(times, schedule, 4.0, 0.05, 50.0)
        start = schedule.at(times[0])[0] * 20 * draw(5, 2)
        ends.append(sample(law, (5, 2), path=path, sampler=Heun(swell=1.003), seeds=range(5), start=start))
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(ends[0], ends[2], rtol=1e-8, atol=1e-8)


def test_band_is_a_kappa_of_sigma_over_alpha() -> None:
    schedule = EDM(10.0)
    path = paths.sync([1.0, 0.3, 0.1, 0.05, 0.003, 0.0])
    plan, one, none = (DDIM(k).plan(schedule, path) for k in (Band(0.3, 0.05, 1.0), 0.3, 0.0))
    for i, (st, want) in enumerate(zip(plan, [none, none, one, one, none], strict=True)):
        assert st.rows == want[i].rows


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_other_names_of_stochasticity(eta: float) -> None:
    """k-diffusion's ancestral eta is DDIM's, its SDE solvers' is kappa; all noise new at each step is kappa = inf."""
    hi, lo = 3.0, 1.2
    path = paths.sync([hi / 80, lo / 80])
    up = min(lo, eta * (lo**2 * (hi**2 - lo**2) / hi**2) ** 0.5)
    (row,) = DDIM(Eta(eta)).plan(EDM(), path)[0].rows
    assert (row.std, row.keep) == pytest.approx((up, (lo**2 - up**2) ** 0.5 / hi), rel=1e-12)
    h = log(hi / lo)
    (row,) = Multistep(eta).plan(EDM(), path)[0].rows
    assert row.keep == pytest.approx(lo / hi * exp(-eta * h)) and row.w[0] == pytest.approx(-expm1(-(1 + eta) * h))
    assert row.std == pytest.approx(lo * (-expm1(-2 * eta * h)) ** 0.5)
    if eta in (0.0, 1.0):
        rows = [[st.rows for st in Adams(3, kappa=k).plan(VP(), paths.sync(TIMES))] for k in (eta, Eta(eta))]
        assert all(a.w == pytest.approx(b.w, rel=1e-9) for (a,), (b,) in zip(*rows, strict=True))
    (row,) = DDIM(float("inf")).plan(EDM(), path)[0].rows
    assert (row.keep, row.w[0], row.std) == pytest.approx((0.0, 1.0, lo))


# principles-solvers, proof 4 (its exact part)


def test_budget() -> None:
    """A mixture in the plane, sbar 20 -> .02 uniform in lambda, mean error to the ODE's end point.

    UniPC-2 / 2M at 10 calls is .479 with a standard error of .005 over 40,000 starts, so .011 over these 8,000. The
    end point is UniPC-3's in 200 steps, for which 2000 would do no other.
    """
    law, n = Mixture([0.3, 0.5, 0.2], [[1.0, 1.0], [-1.0, 0.5], [0.2, -1.2]], [0.02, 0.05, 0.01]), 8000
    den = law.denoiser(EDM(20.0))
    x = law.sample(n, generator=torch.Generator().manual_seed(1)).double() + 20 * draw(n, 2, seed=11)

    def end(solver: Solver, steps: int) -> Tensor:
        times = [1.0, *(exp(-log(1000.0) * i / steps) for i in range(1, steps + 1))]
        *_, out = walk(den, x, paths.sync(times), solver, Seeded(range(n)))
        return out.x

    truth = end(SAMPLERS["unipc3"].solver, 200)

    def error(name: str, calls: int) -> float:
        return float((end(SAMPLERS[name].solver, calls // 2 if name == "heun" else calls) - truth).norm(dim=1).mean())

    at_10 = {name: error(name, 10) for name in ("ddim", "2m", "unipc2", "ipndm4", "deis3")}
    assert at_10["unipc2"] <= at_10["2m"] / 2 and at_10["unipc2"] <= at_10["ddim"] / 4
    measured = {"ddim": 0.121, "2m": 0.038, "unipc2": 0.017, "ipndm4": 0.014, "deis3": 0.019}
    assert at_10 == pytest.approx(measured, rel=0.12)  # of 1,000 or so starts on the card
    assert error("ipndm4", 6) <= error("2m", 6) / 2
    assert error("heun", 6) > error("ddim", 6)
