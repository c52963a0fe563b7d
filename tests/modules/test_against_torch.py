"""The drop-ins against torch.nn in float64: outputs, final states and every gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import throughtime as tt
from tests.modules.peers import FORMS, KINDS, example, pair, same
from tests.serving import ENGINES, first
from tests.tolerances import close


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "both ways"])
def test_same_numbers(kind: str, engine: str, layers: int, bidirectional: bool) -> None:
    for form in FORMS:
        for bias in (True, False):
            theirs, ours = pair(
                kind, engine=engine, num_layers=layers, bidirectional=bidirectional, bias=bias,
                batch_first=form == "batch first",
            )  # fmt: skip
            same(theirs, ours, form, *example(form, theirs, with_state=bias))
            assert ours.served == engine


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("steps", "batch", "units"), [(1, 3, 7), (4, 1, 7), (4, 3, 1), (1, 1, 1)])
def test_at_the_edges(kind: str, engine: str, steps: int, batch: int, units: int) -> None:
    theirs, ours = pair(kind, engine=engine, hidden_size=units, num_layers=2, bidirectional=True)
    same(theirs, ours, "batch", *example("batch", theirs, steps=steps, batch=batch))


@pytest.mark.parametrize("kind", KINDS)
def test_float32(kind: str) -> None:
    """Torch's LSTM is oneDNN's kernel here."""
    theirs, ours = pair(kind, dtype=torch.float32, num_layers=2, bidirectional=True)
    for engine in ("auto", "native", "reference"):
        ours.engine = engine
        same(theirs, ours, "batch", *example("batch", theirs))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["batch", "packed"])
def test_dropout_draws_as_torch_does(kind: str, form: str) -> None:
    theirs, ours = pair(kind, num_layers=3, bidirectional=True, dropout=0.5)
    x, state = example(form, theirs)

    def output(module: nn.Module) -> Tensor:
        torch.manual_seed(3)
        given = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([5, 5, 2, 1])) if form == "packed" else x
        answer = module(given, state)[0]
        return answer.data if form == "packed" else answer

    expected = output(theirs)
    for engine in ("auto", "native", "reference"):
        ours.engine = engine
        close(output(ours), expected)
    assert not torch.allclose(output(ours.eval()), expected)
    close(output(ours), output(theirs.eval()))


def test_dropout_of_everything_leaves_the_biases() -> None:
    theirs, ours = pair("LSTM", num_layers=2, dropout=1.0, engine="reference")
    same(theirs, ours, "batch", *example("batch", theirs))


@pytest.mark.parametrize("engine", ENGINES)
def test_run_is_the_packed_call_on_padded_sequences(engine: str) -> None:
    theirs, ours = pair("LSTM", num_layers=2, bidirectional=True, engine=engine)
    x, (h, c) = example("batch", theirs)
    lengths = torch.tensor([3, 1, 5, 1])
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    answer, (h_n, c_n) = theirs(packed, (h, c))
    padded, _ = nn.utils.rnn.pad_packed_sequence(answer)
    output, final = ours.run(x, tt.cells.State(s=c, h=h), lengths)
    for mine, expected in ((output, padded), (final.h, h_n), (final.s, c_n)):
        close(mine, expected)
    assert tuple(final) == ours.cell.parts


@pytest.mark.parametrize("lengths", [[5, 5, 5, 5], [0, 5, 0, 2], [0, 0, 0, 0], [3, 1, 2, 2]])
def test_run_with_any_lengths(lengths: list[int]) -> None:
    """Each sequence alone is the oracle; one of length 0 keeps its initial state and puts out zeros."""
    theirs, ours = pair("LSTM", num_layers=2, bidirectional=True)
    x, (h, c) = example("batch", theirs)
    output, final = ours.run(x, tt.cells.State(s=c, h=h), torch.tensor(lengths))
    assert ours.served == (first("native") if any(lengths) else "reference")
    for b, length in enumerate(lengths):
        assert not output[length:, b].any()
        if length == 0:
            assert torch.equal(final.h[:, b], h[:, b])
            continue
        alone, (h_n, c_n) = theirs(x[:length, b], (h[:, b], c[:, b]))
        close(output[:length, b], alone)
        close(final.h[:, b], h_n)
        close(final.s[:, b], c_n)
