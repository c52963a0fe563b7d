"""Path families far back, in closed form; what limits them, and what is said when they are not defined."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import throughtime as tt
from tests.flow.own import HearsItself, Mixing
from tests.laws.variants import sequence
from tests.tolerances import MEASURE, close, near
from throughtime.cells import Cell, Gates, State
from throughtime.errors import FlowError
from throughtime.flow.adjoint import checked
from throughtime.flow.linear.trajectory import follow
from throughtime.flow.paths import paths_of
from throughtime.flow.sighting import Sighting

DOUBLE = torch.float64


class Twofold(Cell):
    """h_t = a h_{t-1} + b h_{t-1} + x_t: the port "carousel" brings a, the port "again" b."""

    reads = {"carousel": "h", "again": "h"}  # noqa: RUF012
    inputs = ("in",)
    recurrent = ()

    def __init__(self, a: float, b: float, dtype: torch.dtype = DOUBLE) -> None:
        self.a, self.b = a, b
        super().__init__(1, 1, dtype=dtype, bias=False)

    def step(self, u, read, W):
        return State(h=self.a * read.carousel + self.b * read.again + u["in"]), Gates()


def last_only(T: int, B: int = 1, H: int = 1, dtype: torch.dtype = DOUBLE) -> Tensor:
    delta = torch.zeros(T, B, H, dtype=dtype)
    delta[-1] = 2.0
    return delta


def log10_choose(n: int, m: int) -> float:
    return (math.lgamma(n + 1) - math.lgamma(m + 1) - math.lgamma(n - m + 1)) / math.log(10.0)


# -- closed forms


@pytest.mark.parametrize(("a", "b"), [(0.25, 3.0), (1e-9, 0.5), (1.0, 1e-120), (40.0, 1e90)])
def test_excursions_are_binomial_a_thousand_steps_back(a: float, b: float) -> None:
    """With one unit, those that leave m times out of n are C(n, m) a^(n−m) b^m."""
    n = 1200
    x = torch.zeros(n + 1, 1, 1, dtype=DOUBLE)
    record = tt.flow.paths(Twofold(a, b), x, last_only(n + 1))
    for lag in (0, 1, 2, 10, 500, n):
        expected = [
            log10_choose(lag, m) + (lag - m) * math.log10(a) + m * math.log10(b) if m <= lag else -math.inf
            for m in range(4)
        ]
        near(record.excursions[:, lag], expected, MEASURE)
        near(record.whole[lag], lag * math.log10(a + b), MEASURE)
        near(record.only["again"][lag], lag * math.log10(b), MEASURE)
        near(record.without["again"][lag], lag * math.log10(a), MEASURE)


def test_coefficients_of_every_size_keep_their_own_power_of_two() -> None:
    """Of 600 steps with 1/2 and 2 the coefficients span 2^−600 to 2^600, which one power for all could not hold."""
    n = 600
    found = tt.flow.excursions(Twofold(0.5, 2.0), torch.zeros(n + 1, 1, 1, dtype=DOUBLE), n, 0)[:, 0, 0, 0]
    near(found.log10(), [log10_choose(n, m) + (2 * m - n) * math.log10(2.0) for m in range(n + 1)], MEASURE)


def test_a_scalar_lstm_by_hand() -> None:
    """Two steps of one unit: every word of ports written out from gates and weights."""
    torch.manual_seed(4)
    cell = tt.cells.make("lstm", 2, 1, dtype=DOUBLE)
    x = torch.randn(3, 1, 2, dtype=DOUBLE)
    run = tt.unroll(cell, x, engine="reference")
    f, i, c, o = (run.gates[name][:, 0, 0].detach().numpy() for name in ("forget", "input", "candidate", "output"))
    s = run.states["s"][:, 0, 0].detach().numpy()
    blocks = dict(zip(cell.recurrent, cell.weight_hh[:, 0].tolist(), strict=True))
    squash = o * (1 - np.tanh(s) ** 2)  # ∂h/∂s inside a step

    def J(t: int) -> dict[str, np.ndarray]:
        onto_s = {
            "forget": s[t - 1] * f[t] * (1 - f[t]) * blocks["forget"],
            "input": c[t] * i[t] * (1 - i[t]) * blocks["input"],
            "candidate": i[t] * (1 - c[t] ** 2) * blocks["candidate"],
        }
        found = {port: np.array([[0, d], [0, squash[t] * d]]) for port, d in onto_s.items()}
        found["carousel"] = np.array([[f[t], 0], [squash[t] * f[t], 0]])
        found["output"] = np.array([[0, 0], [0, np.tanh(s[t]) * o[t] * (1 - o[t]) * blocks["output"]]])
        return found

    new, old = J(2), J(1)
    rest = [port for port in new if port != "carousel"]
    never = new["carousel"] @ old["carousel"]
    once = sum(new["carousel"] @ old[p] + new[p] @ old["carousel"] for p in rest)
    twice = sum(new[p] @ old[q] for p in rest for q in rest)
    close(tt.flow.excursions(cell, x, 2, 0)[:, 0], torch.from_numpy(np.stack([never, once, twice])))
    for port in new:
        near(tt.flow.only(cell, x, 2, 0, port)[0], new[port] @ old[port])


def test_no_step_at_all_is_the_identity() -> None:
    cell = tt.cells.make("lstm", 3, 2, dtype=DOUBLE)
    x = torch.randn(4, 2, 3, dtype=DOUBLE)
    eye = torch.eye(4, dtype=DOUBLE).expand(2, 4, 4)
    assert torch.equal(tt.flow.only(cell, x, 2, 2, "forget"), eye)
    assert torch.equal(tt.flow.without(cell, x, 2, 2, "forget"), eye)
    assert torch.equal(tt.flow.excursions(cell, x, 2, 2), eye.unsqueeze(0))
    more = tt.flow.excursions(cell, x, 2, 2, most=2)
    assert torch.equal(more[0], eye)
    assert not more[1:].any()


@pytest.mark.parametrize("own", [Mixing, HearsItself])
def test_a_cell_that_mixes_its_units(own: type[Cell]) -> None:
    cell = own(3, 3, dtype=DOUBLE)
    x, state = sequence(cell)
    ports = tt.flow.ports(cell, x, state)
    first = next(iter(ports))
    found = tt.flow.excursions(cell, x, 4, 1, state, carousel=first)
    close(found.sum(0), tt.flow.transport(cell, x, 4, 1, state))
    near(found[0], ports[first][4] @ ports[first][3] @ ports[first][2])


# -- records


def test_the_whole_is_the_lag_profile() -> None:
    cell = tt.cells.make("lstm", 3, 5, dtype=DOUBLE)
    lengths = torch.tensor([11, 4, 8])
    x, delta = torch.randn(11, 3, 3, dtype=DOUBLE), torch.randn(11, 3, 5, dtype=DOUBLE)
    delta[torch.arange(11).unsqueeze(1) >= lengths] = 0
    delta[3, 1] = 0
    record = tt.flow.paths(cell, x, delta, lengths=lengths)
    lags = tt.flow.credit(cell, x, delta, lengths=lengths).lags
    near(record.whole, lags.median)
    assert record.pairs.tolist() == lags.pairs.tolist()
    near(record.excursions[0], record.only["carousel"])
    some = tt.flow.paths(cell, x, delta, lengths=lengths, sources=[2, 7], most_lag=3)
    near(some.whole, tt.flow.credit(cell, x, delta, lengths=lengths, sources=[2, 7], most_lag=3).lags.median)
    assert some.lags.tolist() == [0, 1, 2, 3]
    assert some.pairs.tolist() == [5, 5, 5, 2]


def test_delta_of_the_whole_state_counts() -> None:
    cell = tt.cells.make("lstm", 3, 2, dtype=DOUBLE)
    x, delta = torch.randn(5, 1, 3, dtype=DOUBLE), torch.zeros(5, 1, 4, dtype=DOUBLE)
    delta[4] = torch.randn(4, dtype=DOUBLE)
    record = tt.flow.paths(cell, x, delta)
    product = delta[4] @ tt.flow.only(cell, x, 4, 1, "carousel")[0]
    near(record.only["carousel"][3], float((product.norm() / delta[4].norm()).log10()))


def test_a_single_port_has_no_way_without_it_and_no_carousel_no_excursions() -> None:
    cell = tt.cells.make("elman", 3, 4, dtype=DOUBLE)
    record = tt.flow.paths(cell, torch.randn(6, 2, 3, dtype=DOUBLE), last_only(6, 2, 4))
    near(record.only["recurrent"], record.whole)
    assert record.without["recurrent"].tolist() == [0.0, *[-math.inf] * 5]
    assert record.carousel is None
    assert record.excursions is None


def test_float32_keeps_its_logarithms_too() -> None:
    record = tt.flow.paths(
        Twofold(0.5, 1e-3, torch.float32), torch.zeros(800, 1, 1), last_only(800, dtype=torch.float32)
    )
    assert record.dtype == "float32"
    assert np.allclose(record.only["carousel"], np.arange(800) * math.log10(0.5), rtol=1e-6)
    assert np.allclose(record.only["again"], -3.0 * np.arange(800), rtol=1e-6)


def seen_of(cell: Cell, x: Tensor, delta: Tensor, lengths: Tensor | None = None) -> Sighting:
    along = follow(cell, x, lengths=lengths)
    return Sighting("recurrent.0", along, checked(along, delta), math.nan)


def test_of_a_sighting_everything_is_measured_where_it_is_small() -> None:
    cell = tt.cells.make("gru", 3, 4, dtype=DOUBLE)
    x, delta = torch.randn(9, 2, 3, dtype=DOUBLE), torch.randn(9, 2, 4, dtype=DOUBLE)
    record, said = paths_of(seen_of(cell, x, delta))
    assert said == ()
    assert record is not None
    whole = tt.flow.paths(cell, x, delta)
    near(record.whole, whole.whole)
    near(record.excursions, whole.excursions)


def test_of_a_sighting_what_is_limited_is_said_and_the_rest_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("throughtime.flow.sources._SOURCES", 3)
    monkeypatch.setattr("throughtime.flow.sources._SEQUENCES", 2)
    monkeypatch.setattr("throughtime.flow.sources._STEPS", 20)
    cell = tt.cells.make("gru", 3, 4, dtype=DOUBLE)
    x, delta = torch.randn(50, 4, 3, dtype=DOUBLE), torch.randn(50, 4, 4, dtype=DOUBLE)
    delta[:, 0] = 0
    delta[40:] = 0
    record, said = paths_of(seen_of(cell, x, delta))
    assert record is not None
    assert [any(word in sentence for sentence in said) for word in ("19 steps back", "2 of 4 seq", "at most 3")] == [
        True, True, True
    ]  # fmt: skip
    sources = [26, 33, 39]  # evenly spread over steps 20 to 39
    expected = tt.flow.paths(cell, x[:, 1:3], delta[:, 1:3], sources=sources, most_lag=19)
    near(record.whole, expected.whole)
    near(record.without["carousel"], expected.without["carousel"])
    assert record.pairs.tolist() == expected.pairs.tolist()


def test_of_a_sighting_without_a_gradient_there_is_a_sentence_and_no_record() -> None:
    cell = tt.cells.make("gru", 3, 4)
    record, said = paths_of(seen_of(cell, torch.randn(5, 2, 3), torch.zeros(5, 2, 4)))
    assert record is None
    assert said == ("Paths were followed from no step: none has an output gradient.",)


def test_sequences_that_end_early_keep_their_own_last_steps() -> None:
    cell = tt.cells.make("gru", 3, 4, dtype=DOUBLE)
    lengths = torch.tensor([9, 3, 6])
    delta = torch.zeros(9, 3, 4, dtype=DOUBLE)
    delta[lengths - 1, torch.arange(3)] = 1.0
    x = torch.randn(9, 3, 3, dtype=DOUBLE)
    record, _ = paths_of(seen_of(cell, x, delta, lengths))
    assert record is not None
    assert record.pairs.tolist() == [3, 3, 3, 2, 2, 2, 1, 1, 1]
    alone = tt.flow.paths(cell, x[:, :1], delta[:, :1])
    near(record.whole[6:], alone.whole[6:])


# -- what is refused


def test_a_module_stands_for_its_cell_and_nothing_is_left_behind() -> None:
    layer = tt.LSTM(3, 4)
    x = torch.randn(6, 2, 3, requires_grad=True)
    before = torch.get_rng_state()
    assert tt.flow.excursions(layer, x, 4, 2).shape == (3, 2, 8, 8)
    tt.flow.paths(layer, x, torch.ones(6, 2, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert x.grad is None
    assert all(parameter.grad is None for parameter in layer.parameters())


def test_what_does_not_fit_is_said() -> None:
    cell, x, delta = tt.cells.make("elman", 3, 4), torch.randn(5, 2, 3), torch.ones(5, 2, 4)
    with pytest.raises(FlowError, match='"elman" has no port "carousel"; its ports are recurrent'):
        tt.flow.excursions(cell, x, 3, 1)
    assert tt.flow.excursions(cell, x, 3, 1, carousel="recurrent").shape == (3, 2, 4, 4)
    with pytest.raises(FlowError, match='no port "forget"'):
        tt.flow.only(cell, x, 3, 1, ["recurrent", "forget"])
    with pytest.raises(FlowError, match='no port "forget"'):
        tt.flow.without(cell, x, 3, 1, "forget")
    with pytest.raises(FlowError, match="at least one port"):
        tt.flow.only(cell, x, 3, 1, ())
    with pytest.raises(FlowError, match="0 <= k <= t < T, got t=5"):
        tt.flow.only(cell, x, 5, 1, "recurrent")
    with pytest.raises(FlowError, match="0 or more, got -1"):
        tt.flow.excursions(cell, x, 3, 1, carousel="recurrent", most=-1)
    with pytest.raises(FlowError, match='no port "around"'):
        tt.flow.paths(cell, x, delta, carousel="around")
    with pytest.raises(FlowError, match="0 or more, got -2"):
        tt.flow.paths(cell, x, delta, most=-2)
    with pytest.raises(FlowError, match="most_lag"):
        tt.flow.paths(cell, x, delta, most_lag=-1)
    with pytest.raises(FlowError, match=r"steps in 0\.\.4, at least one, got \[7\]"):
        tt.flow.paths(cell, x, delta, sources=[7])
    with pytest.raises(FlowError, match="zero at every source"):
        tt.flow.paths(cell, x, 0 * delta)


def test_one_step_beyond_the_range_is_refused() -> None:
    with pytest.raises(FlowError, match="not finite at step 3"):
        tt.flow.paths(Twofold(1e308, 1e308), torch.zeros(5, 1, 1, dtype=DOUBLE), 0.499 * last_only(5))
