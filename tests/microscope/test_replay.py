"""What is measured of a caught layer is what loops over torch.nn's own cells and autograd say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tests.microscope.by_hand import ByHand
from tests.tolerances import MEASURE, close
from throughtime.flow.credit import credit_along
from throughtime.flow.linear.sweep import shift
from throughtime.flow.sighting import Sighting
from throughtime.microscope.layers import LayerCatcher

T, B, I, H = 6, 4, 3, 3  # noqa: E741
KINDS = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}


def caught(module: nn.Module, step: Any, sequences: int | None = None) -> dict[str, Sighting]:
    catcher = LayerCatcher("model.rnn", module, sequences)
    catcher.open()
    step()
    assert catcher.answered
    found = catcher.sightings()
    catcher.close()
    return {seen.name: seen for seen in found}


def agree(seen: Sighting, slow: ByHand, layer: int, d: int, pairs_too: bool) -> None:
    """δ, the gradient through time and the credit of all pairs."""
    steps, batch = seen.along.T, seen.along.B
    delta = seen.delta.movedim(0, -2).flatten(-2)
    close(delta, slow.delta(layer, d)[:steps], MEASURE)
    rows = shift(seen.adjoint.rows, seen.adjoint.exponents.int().unsqueeze(-1)).movedim(0, -2).flatten(-2)
    theirs = slow.adjoint(layer, d)[:steps]
    assert theirs.any() or not seen.delta.any()
    close(rows, theirs, MEASURE)
    if not pairs_too:
        return
    pairs = torch.from_numpy(credit_along(seen.tangent, seen.delta, seen.adjoint).pairs)
    running = seen.along.running()
    there = running.unsqueeze(1) & running
    assert pairs.shape == (steps, steps, batch)
    close(torch.where(there, pairs, 0.0), slow.credit(layer, d)[:steps, :steps], MEASURE)


def all_agree(found: dict[str, Sighting], slow: ByHand, pairs_too: bool = False) -> None:
    several = len(slow.cells) > 1
    assert list(found) == [
        "model.rnn" + (f".l{layer}{'_reverse' * d}" if several else "") for layer, d in sorted(slow.cells)
    ]
    for (layer, d), seen in zip(sorted(slow.cells), found.values(), strict=True):
        agree(seen, slow, layer, d, pairs_too)


class Attention(nn.Module):
    """A head that looks at every output and at the final states."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score, self.head = nn.Linear(width, 1).double(), nn.Linear(width, 2).double()

    def forward(self, output: Tensor, lengths: Tensor) -> Tensor:
        there = torch.arange(len(output)).unsqueeze(1) < lengths
        weights = self.score(output).squeeze(-1).masked_fill(~there, -torch.inf).softmax(0)
        return self.head((weights.unsqueeze(-1) * output).sum(0))


def losses(width: int, lengths: list[int]) -> dict[str, Any]:
    attention = Attention(width)
    labels = torch.arange(len(lengths)) % 2
    return {
        "attention": lambda out, _: F.cross_entropy(attention(out, torch.tensor(lengths)), labels),
        "last": lambda out, _: out[min(lengths) - 1].square().sum(),
        "final": lambda _, final: sum(((p + 1) * part.sin()).sum() for p, part in enumerate(final)),
        "cell": lambda _, final: final[-1].square().sum(),
        "both": lambda out, final: out.cos().sum() + final[0].square().sum(),
    }


@pytest.mark.parametrize("loss", ["attention", "final", "cell", "both"])
@pytest.mark.parametrize("kind", KINDS)
def test_two_layers_both_ways_packed_unsorted(kind: str, loss: str) -> None:
    lengths = [3, 6, 1, 5]
    module = KINDS[kind](I, H, 2, bidirectional=True).double()
    x = torch.randn(T, B, I).double()
    how = losses(2 * H, lengths)[loss]

    def step() -> None:
        output, final = module(pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False))
        how(pad_packed_sequence(output)[0], final if isinstance(final, tuple) else (final,)).backward()

    all_agree(caught(module, step), ByHand(module, x, lengths, how), pairs_too=True)


@pytest.mark.parametrize("how", ["plain", "batch_first", "packed", "packed, batch_first", "alone"])
@pytest.mark.parametrize("kind", KINDS)
def test_dropout_between_layers_with_the_masks_that_were_drawn(kind: str, how: str) -> None:
    steps = 4
    first, packing = how.endswith("batch_first"), how.startswith("packed")
    lengths = [3, 4, 1, 2] if packing else [steps] if how == "alone" else [steps] * 2
    n = len(lengths)
    module = KINDS[kind](I, H, 3, dropout=0.4, bidirectional=True, batch_first=first).double()
    x = torch.randn(steps, n, I).double()
    torch.rand(7)  # the random state is somewhere
    state = torch.get_rng_state()
    loss = losses(2 * H, lengths)["both"]

    def step() -> None:
        if packing:
            packed = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
            packed, final = module(packed)
            output = pad_packed_sequence(packed)[0]
        elif how == "alone":
            output, final = module(x[:, 0])
            output = output.unsqueeze(1)
            final = tuple(f.unsqueeze(1) for f in final) if isinstance(final, tuple) else final.unsqueeze(1)
        else:
            output, final = module(x.transpose(0, 1) if first else x)
            output = output.transpose(0, 1) if first else output
        loss(output, final if isinstance(final, tuple) else (final,)).backward()

    torch.set_rng_state(state)
    found = caught(module, step)
    after = torch.get_rng_state()
    # By hand: torch drops from what one layer hands to the next, time first; packed, one row a step and sequence.
    torch.set_rng_state(state)
    masks = []
    for _ in range(2):
        if packing:
            sizes = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
            drawn = F.dropout(torch.ones(len(sizes.data), 2 * H).double(), 0.4)
            masks.append(pad_packed_sequence(sizes._replace(data=drawn))[0])
        else:
            masks.append(F.dropout(torch.ones(steps, n, 2 * H).double(), 0.4))
    assert torch.equal(torch.get_rng_state(), after)
    all_agree(found, ByHand(module, x, lengths, loss, masks))


@pytest.mark.parametrize(
    "options",
    [{}, {"bias": False}, {"bidirectional": True}, {"num_layers": 2}],
    ids=lambda options: ",".join(options) or "plain",
)
@pytest.mark.parametrize("kind", [*KINDS, "relu"])
def test_a_given_initial_state_and_one_step(kind: str, options: dict[str, Any]) -> None:
    more = {"nonlinearity": "relu"} if kind == "relu" else {}
    module = KINDS.get(kind, nn.RNN)(I, H, **options, **more).double()
    D = 1 + module.bidirectional
    for steps in (1, T):
        x = torch.randn(steps, B, I).double()
        start = tuple(torch.randn(D * module.num_layers, B, H).double() for _ in range(1 + (kind == "LSTM")))
        loss = losses(D * H, [steps] * B)["both"]

        def step(x: Tensor = x, start: tuple[Tensor, ...] = start, loss: Any = loss) -> None:
            output, final = module(x, start if kind == "LSTM" else start[0])
            loss(output, final if isinstance(final, tuple) else (final,)).backward()

        all_agree(caught(module, step), ByHand(module, x, [steps] * B, loss, initial=start))


@pytest.mark.parametrize("kind", KINDS)
def test_calls_that_hand_their_state_on_are_one_run(kind: str) -> None:
    """Sequences of three calls, each of other lengths; the loss also asks for what is handed on."""
    module = KINDS[kind](I, H, 2).double()
    each = [[2, 3, 1], [1, 2, 3], [3, 1, 1]]
    pieces = [torch.randn(3, 3, I).double() for _ in each]
    whole = [torch.cat([x[:n, b] for x, n in zip(pieces, (e[b] for e in each), strict=True)]) for b in range(3)]
    together = nn.utils.rnn.pad_sequence(whole)
    lengths = [len(x) for x in whole]
    handed_on = [each[0][b] - 1 for b in range(3)]

    def loss(output: Tensor, final: tuple[Tensor, ...]) -> Tensor:
        return output.sin().sum() + final[-1].square().sum() + output[handed_on, range(3)].square().sum()

    def step() -> None:
        state: Any = None
        outputs = []
        for number, (x, n) in enumerate(zip(pieces, each, strict=True)):
            packed, state = module(pack_padded_sequence(x, torch.tensor(n), enforce_sorted=False), hx=state)
            outputs.append(pad_packed_sequence(packed, total_length=3)[0])
            if number == 0:
                first = (state[0] if kind == "LSTM" else state)[-1]
                state = tuple(s.view_as(s) for s in state) if kind == "LSTM" else state[:]
        joined = nn.utils.rnn.pad_sequence(
            [torch.cat([out[: e[b], b] for out, e in zip(outputs, each, strict=True)]) for b in range(3)]
        )
        final = state if isinstance(state, tuple) else (state,)
        (joined.sin().sum() + final[-1].square().sum() + first.square().sum()).backward()

    found = caught(module, step)
    all_agree(found, ByHand(module, together, lengths, loss), pairs_too=True)
    assert "3 calls that hand their state on are one run of steps here." in found["model.rnn.l0"].notes


def weight_gradient(seen: Sighting) -> Tensor:
    """Σ_t ∂z_t/∂W_ihᵀ dL/dz_t from the gradient through time, as the layer's own backward pass should have it."""
    along = seen.along
    rows = shift(seen.adjoint.rows, seen.adjoint.exponents.int().unsqueeze(-1))
    pulled = seen.tangent.pull_inputs(rows, slice(0, along.T))
    weights = {name: p.clone().requires_grad_() for name, p in along.parameters.items()}
    shares = along.cell.share(along.x, weights)
    made = [name for name in shares if shares[name].requires_grad]
    (found,) = torch.autograd.grad([shares[b] for b in made], weights["weight_ih"], [pulled[b] for b in made])
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_both_directions_of_calls_that_hand_their_state_on(kind: str) -> None:
    """The reverse direction, too, goes on from where it ended; the weights' gradient is then that of training."""
    module = KINDS[kind](I, H, 2, bidirectional=True, batch_first=True).double()

    def step() -> None:
        state: Any = None
        loss = torch.zeros(())
        for steps in (2, 4, 3):
            output, state = module(torch.randn(B, steps, I).double(), state)
            loss = loss + output.cos().sum()
        loss.backward()

    found = caught(module, step)
    assert len(found) == 4
    for name, seen in found.items():
        close(weight_gradient(seen), getattr(module, "weight_ih_" + name.removeprefix("model.rnn.")).grad, MEASURE)


def test_independent_calls_are_sightings_of_their_own() -> None:
    """A question and a document through one encoder; a call cut off from the question, which is one run with it; a
    second one that goes on from the question, changed."""
    module = nn.GRU(I, H).double()

    def step() -> None:
        question, asked = module(torch.randn(3, B, I).double())
        document, _ = module(torch.randn(T, B, I).double())
        cut, _ = module(torch.randn(2, B, I).double(), asked.detach())
        changed, _ = module(torch.randn(2, B, I).double(), asked * 2)
        (question[-1] * document[-1] + cut[-1] + changed[-1]).sum().backward()

    found = caught(module, step)
    assert list(found) == ["model.rnn", *(f"model.rnn (call {n})" for n in (2, 4))]
    assert [seen.along.T for seen in found.values()] == [5, T, 2]
    assert ["goes on" in " ".join(seen.notes) for seen in found.values()] == [False, False, True]
    close(sum(weight_gradient(seen) for seen in found.values()), module.weight_ih_l0.grad, MEASURE)


def test_a_state_that_two_calls_start_from() -> None:
    """One of them goes on with it; what comes back through the other is from outside."""
    module = nn.LSTM(I, H).double()

    def step() -> None:
        _, state = module(torch.randn(3, B, I).double())
        one, _ = module(torch.randn(2, B, I).double(), state)
        other, _ = module(torch.randn(4, B, I).double(), state)
        (one.sum() + other.square().sum()).backward()

    found = caught(module, step)
    assert [seen.along.T for seen in found.values()] == [5, 4]
    close(sum(weight_gradient(seen) for seen in found.values()), module.weight_ih_l0.grad, MEASURE)


def test_at_most_so_many_sequences_evenly_spread_by_length() -> None:
    lengths = [9, 2, 7, 4, 1, 8, 3, 6, 5]
    module = nn.LSTM(I, H, bidirectional=True).double()
    x = torch.randn(9, 9, I).double()

    def step() -> None:
        packed, _ = module(pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False))
        packed.data.square().sum().backward()

    found = caught(module, step, sequences=3)
    for seen in found.values():
        assert seen.along.lengths.tolist() == [9, 1, 5]
        assert "3 of the 9 sequences of the batch were measured, evenly spread by length." in seen.notes
    some = [0, 4, 8]
    slow = ByHand(module, x[:, some], [lengths[b] for b in some], lambda out, _: out.square().sum())
    all_agree(found, slow)
