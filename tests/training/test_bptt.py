"""Full and truncated backpropagation through time against loops written by hand with autograd, in float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.tolerances import IDENTITY, close
from tests.training import toys
from throughtime.data.dataset import Batch
from throughtime.errors import TrainingError
from throughtime.models import Net
from throughtime.records import Settings
from throughtime.training.bptt import Truncation, answers, truncation

CPU = torch.device("cpu")


@given(steps=st.integers(1, 60), k1=st.integers(1, 12), more=st.integers(0, 20))
def test_every_step_counts_once_and_no_window_is_longer_than_k2(steps: int, k1: int, more: int) -> None:
    windows = Truncation(k1 + more, k1, each_step=True).windows(steps)
    counted = [t for window in windows for t in range(window.counted, window.stop)]
    assert counted == list(range(steps))
    at = 0
    for window in windows:
        assert window.start == at <= window.counted
        assert window.stop - window.start <= k1 + more
        # back over k2, or to the beginning; the last window counts fewer steps and starts where a whole one would
        assert window.start == max(0, window.counted - more)
        at = window.keep


def gradients(net: Net) -> list[Tensor]:
    return [p.grad.clone() for p in net.parameters()]


def run(net: Net, batch: Batch, cut: Truncation) -> Iterator[tuple[float, list[Tensor]]]:
    """Loss and gradients of each window, as training sees them; the weights move between windows."""
    state = None
    for window in cut.windows(batch.x.shape[0]):
        net.zero_grad()
        tally, state = cut.tally(net, batch, window, state, device=CPU)
        assert int(tally.answers) == answers(batch, window)
        loss = tally.loss / tally.answers.clamp(min=1)
        loss.backward()
        yield loss.item(), gradients(net)
        move(net)


def move(net: nn.Module) -> None:
    with torch.no_grad():
        for p in net.parameters():
            p -= 0.05 * p.grad


def net_for(data: toys.Dataset, cell: str = "lstm", **more: object) -> Net:
    return Net.build(data.card, cell, hidden=5, readout="every" if data.answers_each_step else None, **more).double()


def peer_step(net: Net, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One step by torch.nn's own cell with the net's weights."""
    p = net.recurrent.parameters_of(0)
    weights = (p["weight_ih"], p["weight_hh"], p["bias_ih"], p["bias_hh"])
    if net.recurrent.cell.name == "lstm":
        h, s = torch.lstm_cell(x, list(state), *weights)
        return h, (h, s)
    h = torch.gru_cell(x, state[0], *weights)
    return h, (h,)


def zeros(net: Net, batch: int) -> tuple[Tensor, ...]:
    parts = 2 if net.recurrent.cell.name == "lstm" else 1
    return tuple(torch.zeros(batch, 5, dtype=torch.float64) for _ in range(parts))


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize(("k1", "k2"), [(4, 4), (1, 4), (2, 7), (3, 4), (5, 40)])
def test_truncated_is_the_loop_by_hand(cell: str, k1: int, k2: int) -> None:
    data = toys.series(60)
    batch = data.train.lanes(3).batch(range(3))
    net, hand = net_for(data, cell), net_for(data, cell)
    steps = batch.x.shape[0]
    states = [zeros(hand, 3)]  # states[t]: before step t, as the loop left it
    expected = []
    for first in range(0, steps, k1):
        stop, start = min(first + k1, steps), max(0, first + k1 - k2)
        hand.zero_grad()
        state = tuple(part.detach() for part in states[start])
        losses = []
        for t in range(start, stop):
            out, state = peer_step(hand, batch.x[t].double(), state)
            if len(states) == t + 1:
                states.append(state)
            else:
                states[t + 1] = state
            if t >= first:
                losses.append((hand.head(out) - batch.y[t].double()).square())
        loss = torch.stack(losses).mean()
        loss.backward()
        expected.append((loss.item(), gradients(hand)))
        move(hand)
    seen = list(run(net, batch, Truncation(k2, k1, each_step=True)))
    assert len(seen) == len(expected)
    for (loss, ours), (wanted, theirs) in zip(seen, expected, strict=True):
        assert loss == pytest.approx(wanted, rel=IDENTITY[torch.float64])
        for mine, other in zip(ours, theirs, strict=True):
            close(mine, other)


def test_windows_of_sequences_that_end_earlier_count_what_is_there() -> None:
    data = toys.steps(8, (3, 13))
    batch = data.train.batch(range(8))
    whole = net_for(data)
    whole.loss(whole(batch)[0], batch).backward()
    net, cut = net_for(data), Truncation(15, 3, each_step=True)  # k2 covers all: the windows make up the full gradient
    state, total = None, 0
    net.zero_grad()
    for window in cut.windows(13):
        tally, state = cut.tally(net, batch, window, state, device=CPU)
        tally.loss.backward()
        total += int(tally.answers)
    assert total == int(batch.lengths.sum())
    for mine, theirs in zip(gradients(net), gradients(whole), strict=True):
        close(mine / total, theirs)


@pytest.mark.parametrize("k2", [1, 3, 6, 30])
def test_one_answer_a_sequence_gets_gradient_from_its_last_k2_steps(k2: int) -> None:
    data = toys.classes(9, (2, 12))
    batch = data.train.batch(range(9))
    net, hand = net_for(data), net_for(data)
    losses = []
    for b, length in enumerate(batch.lengths.tolist()):
        state = zeros(hand, 1)
        for t in range(length):
            if t == length - k2:
                state = tuple(part.detach() for part in state)
            out, state = peer_step(hand, batch.x[t, b : b + 1].double(), state)
        losses.append(nn.functional.cross_entropy(hand.head(out), batch.y[b : b + 1]))
    torch.stack(losses).mean().backward()
    cut = Truncation(k2, each_step=False)
    (window,) = cut.windows(batch.x.shape[0])
    tally, carried = cut.tally(net, batch, window, None, device=CPU)
    assert carried is None
    (tally.loss / tally.answers).backward()
    for mine, theirs in zip(gradients(net), gradients(hand), strict=True):
        close(mine, theirs)


@pytest.mark.parametrize("make", [toys.classes, toys.steps])
def test_full_is_one_pass_over_everything(make: object) -> None:
    data = make()
    batch = data.train.batch(range(10))
    net, whole = net_for(data), net_for(data)
    whole.loss(whole(batch)[0], batch).backward()
    cut = Truncation(each_step=data.answers_each_step)
    (window,) = cut.windows(batch.x.shape[0])
    tally, _ = cut.tally(net, batch, window, None, device=CPU)
    (tally.loss / tally.answers).backward()
    for mine, theirs in zip(gradients(net), gradients(whole), strict=True):
        close(mine, theirs)


def test_the_carried_state_has_no_graph() -> None:
    data = toys.series(60)
    batch = data.train.lanes(2).batch(range(2))
    for k1 in (2, 5):
        cut, net, state = Truncation(5, k1, each_step=True), net_for(data), None
        for window in cut.windows(20):
            _, state = cut.tally(net, batch, window, state, device=CPU)
            assert state is None or all(part.grad_fn is None for part in state.values())


@pytest.mark.parametrize(
    ("settings", "more", "each_step", "words"),
    [
        (Settings(window=4), {"bidirectional": True}, False, "both ends"),
        (Settings(window=4), {"readout": "mean"}, False, 'readout "mean"'),
        (Settings(), {"readout": "every"}, False, "the whole sequence"),
        (Settings(), {}, True, "each step"),
    ],
)
def test_what_cannot_be_trained_in_windows_is_refused(
    settings: Settings, more: dict[str, object], each_step: bool, words: str
) -> None:
    net = Net.build(toys.classes().card, hidden=3, **more)
    with pytest.raises(TrainingError, match=words):
        truncation(settings, net, each_step)
