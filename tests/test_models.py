"""The model around a recurrence, against torch.nn's parts put together by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import throughtime as tt
from tests.tolerances import close
from tests.training import toys
from throughtime.data.dataset import Batch
from throughtime.errors import CellError
from throughtime.models import Net


@pytest.mark.parametrize("readout", ["last", "mean"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("tokens", [False, True])
def test_prediction_and_loss_are_torchs(readout: str, bidirectional: bool, tokens: bool) -> None:
    data = toys.classes(7, (2, 9), tokens=tokens)
    batch = data.train.batch(range(7))
    net = Net.build(
        data.card, "lstm", hidden=5, layers=2, bidirectional=bidirectional, readout=readout, dropout=0.5
    ).double()
    net.eval()
    peer = nn.LSTM(net.recurrent.input_size, 5, 2, bidirectional=bidirectional, dtype=torch.float64)
    peer.load_state_dict(net.recurrent.state_dict())
    x = net.embedding(batch.x) if tokens else batch.x.double()
    packed, (h, _) = peer(pack_padded_sequence(x, batch.lengths, enforce_sorted=False))
    if readout == "last":
        read = torch.cat((h[-2], h[-1]), -1) if bidirectional else h[-1]
    else:
        output, lengths = pad_packed_sequence(packed)
        read = torch.stack([output[:n, b].mean(0) for b, n in enumerate(lengths.tolist())])
    wanted = nn.functional.linear(read, net.head.weight, net.head.bias)
    prediction, state = net(batch)
    close(prediction, wanted)
    close(state.h, h)
    close(net.loss(prediction, batch), nn.functional.cross_entropy(wanted, batch.y))
    assert net.score(prediction, batch) == float((wanted.argmax(-1) == batch.y).double().mean())


@pytest.mark.parametrize("counted", [False, True])
def test_answers_at_each_step_count_where_they_should(counted: bool) -> None:
    data = toys.steps(7, (2, 9), counted=counted)
    batch = data.train.batch(range(7))
    net = Net.build(data.card, "gru", hidden=4, readout="every").double()
    prediction, _ = net(batch)
    assert prediction.shape == (int(batch.lengths.max()), 7, 1)
    errors = [
        (prediction[t, b, 0] - batch.y[t, b, 0].double()) ** 2
        for b, n in enumerate(batch.lengths.tolist())
        for t in range(n)
        if not counted or t % 3 == 1
    ]
    close(net.loss(prediction, batch), torch.stack(errors).mean())
    assert net.score(prediction, batch) == pytest.approx(float(torch.stack(errors).mean().detach()))
    nothing = Batch(batch.x, batch.lengths, batch.y, True, torch.zeros_like(batch.x[..., 0], dtype=torch.bool))
    assert float(net.loss(prediction, nothing).detach()) == 0.0


def test_tokens_to_predict_are_scored_in_nats() -> None:
    card = toys.card("next", True, 5, 5)
    net = Net.build(card, "elman", hidden=4, embedding=3)
    assert net.readout == "every"
    batch = Batch(torch.randint(0, 5, (6, 2)), torch.tensor([6, 6]), torch.randint(0, 5, (6, 2)), True)
    prediction, _ = net(batch)
    wanted = nn.functional.cross_entropy(prediction.flatten(0, 1), batch.y.flatten())
    close(net.loss(prediction, batch), wanted)
    assert net.score(prediction, batch) == pytest.approx(float(wanted.detach()), rel=1e-6)


@pytest.mark.parametrize("cell", tt.cells.known())
def test_any_known_cell_learns(cell: str) -> None:
    data = toys.classes(12, (3, 6))
    net = Net.build(data.card, cell, hidden=4)
    batch = data.train.batch(range(12))
    net.loss(net(batch)[0], batch).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    assert net.card().cell == cell
    assert net.card().parameters == sum(p.numel() for p in net.parameters())


def test_parameters_follow_from_the_seed_alone() -> None:
    card = toys.classes(tokens=True).card
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = Net.build(card, seed=4, layers=2, bidirectional=True)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second, other = Net.build(card, seed=4, layers=2, bidirectional=True), Net.build(card, seed=5, layers=2)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.head.bias, other.head.bias)


def test_options_reach_the_cell_and_its_initialisation() -> None:
    card = toys.classes().card
    net = Net.build(card, "gru", options={"reset": "before"}, hidden=3)
    assert net.card().options["reset"] == "before"
    net = Net.build(card, "lstm", hidden=3, forget_bias=2.5)
    p = net.recurrent.parameters_of(0)
    close(p["bias_ih"][3:6] + p["bias_hh"][3:6], torch.full((3,), 2.5))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(CellError, match="cannot have one"):
        Net.build(toys.classes().card, embedding=3)
    with pytest.raises(CellError, match="readout is one of"):
        Net.build(toys.classes().card, readout="first")
