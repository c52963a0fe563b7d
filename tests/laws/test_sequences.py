"""A sequence is its steps: cut, padded, given other parameters, batched and differentiated, it stays the same."""

import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.func import vmap

import throughtime as tt
from tests.laws.variants import VARIANTS, H, Variant, sequence
from tests.tolerances import close
from throughtime import cells
from throughtime.cells import Cell, State


def test_every_known_cell_is_under_the_laws() -> None:
    assert {variant.name for variant in VARIANTS} - {"own"} == set(cells.known())


def test_every_choice_is_under_the_laws() -> None:
    """Each value that an option can have stands in some variant of its cell."""
    for name in cells.known():
        variants = [variant.options for variant in VARIANTS if variant.name == name]
        for option in cells.about(name).options:
            tried = {str(options.get(option.name, option.default)) for options in variants}
            # tanh, relu, logistic and identity go through the same line; Elman and scalar try all of them
            phi = option.name == "nonlinearity" and name not in ("elman", "scalar")
            squash = option.name == "squash" and name != "lstm"
            assert phi or squash or {str(choice) for choice in option.choices} <= tried, (name, option)


def run(cell: Cell, x, state=None, **kwargs):
    return tt.unroll(cell, x, state, engine="reference", **kwargs)


def test_shapes(cell: Cell) -> None:
    x, state = sequence(cell)
    result = run(cell, x, state)
    assert tuple(result.states) == cell.parts
    assert all(part.shape == (*x.shape[:2], H) for part in [*result.states.values(), *result.gates.values()])
    assert result.output is result.states[cell.parts[-1]]
    for part in cell.parts:
        assert torch.equal(result.final[part], result.states[part][-1])


def test_a_split_sequence_is_the_whole(cell: Cell) -> None:
    x, state = sequence(cell)
    all_at_once = run(cell, x, state)
    first = run(cell, x[:2], state)
    second = run(cell, x[2:], first.final)
    for part in cell.parts:
        close(torch.cat([first.states[part], second.states[part]]), all_at_once.states[part])
        close(second.final[part], all_at_once.final[part])
    for gate, opening in all_at_once.gates.items():
        close(torch.cat([first.gates[gate], second.gates[gate]]), opening)


def test_a_padded_sequence_is_each_alone(cell: Cell) -> None:
    x, state = sequence(cell, batch=4)
    lengths = torch.tensor([3, 5, 1, 4])
    together = run(cell, x, state, lengths=lengths)
    for b, length in enumerate(lengths.tolist()):
        alone = run(cell, x[:length, b : b + 1], state.map(lambda part, b=b: part[b : b + 1]))
        for part in cell.parts:
            close(together.states[part][:length, b], alone.states[part][:, 0])
            close(together.final[part][b], alone.final[part][0])


def test_padding_has_no_gradient(cell: Cell) -> None:
    x, state = sequence(cell)
    x.requires_grad_()
    lengths = torch.tensor([3, 5])
    final = cell.pack(run(cell, x, state, lengths=lengths).final)
    (gradient,) = torch.autograd.grad(final.square().sum(), x)
    assert torch.equal(gradient[3:, 0], torch.zeros_like(gradient[3:, 0]))
    assert gradient[2, 0].abs().sum() > 0


def test_given_parameters_stand_in_for_its_own(cell: Cell) -> None:
    x, state = sequence(cell)
    own = {name: value.detach().clone() for name, value in cell.values().items()}
    expected = run(cell, x, state)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.fill_(torch.nan)
    given = run(cell, x, state, parameters=own)
    close(cell.pack(given.final), cell.pack(expected.final).detach())


def test_a_template_without_memory_runs_given_parameters(cell: Cell) -> None:
    """As modules use it: the cell on the meta device, the tensors elsewhere."""
    x, state = sequence(cell)
    own = {name: value.detach().clone() for name, value in cell.values().items()}
    template = cell.to("meta")
    assert torch.isfinite(run(template, x, state, parameters=own).output).all()


def test_every_parameter_is_used(cell: Cell) -> None:
    if cell.options.get("peephole") and not all(gate in cell.inputs for gate in ("input", "forget", "output")):
        return  # peepholes keep their held shape (3·H,); the rows of an absent gate wait there unused
    x, state = sequence(cell)
    cell.pack(run(cell, x, state).final).square().sum().backward()
    for name, parameter in cell.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_the_step_maps_over_sequences(cell: Cell) -> None:
    """torch.func.vmap of one sequence's step is the step of the batch."""
    x, state = sequence(cell)
    u, W = cell.share(x[0]), cell.weights()
    expected, gates = cell.advance(u, state, W)
    mapped, mapped_gates = vmap(lambda u, z: cell.advance(u, z, W))(u, state)
    for part in cell.parts:
        close(mapped[part], expected[part])
    for gate in gates:
        close(mapped_gates[gate], gates[gate])


def test_an_ensemble_maps_over_parameters(cell: Cell) -> None:
    x, state = sequence(cell)
    members = [{name: value.detach() * scale for name, value in cell.values().items()} for scale in (1.0, 0.5)]
    stacked = {name: torch.stack([member[name] for member in members]) for name in members[0]}
    outputs = vmap(lambda parameters: run(cell, x, state, parameters=parameters).output)(stacked)
    for output, member in zip(outputs, members, strict=True):
        close(output, run(cell, x, state, parameters=member).output)


def pytest_generate_tests(metafunc) -> None:
    if "variant" in metafunc.fixturenames:
        metafunc.parametrize("variant", VARIANTS, ids=str)


def test_gradients_and_their_gradients(variant: Variant) -> None:
    """Against finite differences, in a state, its inputs and every parameter."""
    cell = variant.make(2, 2)
    x, state = sequence(cell, steps=3, batch=1)
    names = list(cell.values())
    inputs = (x, cell.pack(state), *(value.detach() for value in cell.values().values()))

    def function(x, z, *values):
        parameters = dict(zip(names, values, strict=True))
        return cell.pack(run(cell, x, cell.unpack(z), parameters=parameters).final)

    leaves = tuple(tensor.requires_grad_() for tensor in inputs)
    assert gradcheck(function, leaves, fast_mode=True)
    assert gradgradcheck(function, leaves, fast_mode=True)


def test_the_step_leaves_its_inputs_alone(cell: Cell) -> None:
    x, state = sequence(cell)
    before = {part: state[part].clone() for part in state}
    new, _ = cell.advance(cell.share(x[0]), state, cell.weights())
    assert isinstance(new, State)
    assert tuple(new) == cell.parts
    assert all(torch.equal(state[part], before[part]) for part in state)
