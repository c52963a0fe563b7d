"""The step alone says how gradients travel: its Jacobians chain, and its ports add up."""

import torch
from torch import Tensor
from torch.autograd.functional import jacobian
from torch.func import jacrev, vmap

import throughtime as tt
from tests.laws.variants import sequence
from tests.tolerances import close
from throughtime.cells import Cell, Read, State


def steps(cell: Cell, x: Tensor, state: State):
    """Each step's share of the input, and the state it starts from."""
    u, W = cell.share(x), cell.weights()
    for t in range(x.shape[0]):
        u_t = u.map(lambda tensor, t=t: tensor[t])
        yield u_t, state, W
        state, _ = cell.advance(u_t, state, W)


def whole(cell: Cell, u, state: State, W) -> Tensor:
    """J_t (B, S, S): the new state by the packed old one, one sequence at a time."""

    def one(u, z):
        return cell.pack(cell.advance(u, cell.unpack(z), W)[0])

    return vmap(jacrev(one, argnums=1))(u, cell.pack(state))


def by_port(cell: Cell, u, state: State, W) -> dict[str, Tensor]:
    """J_t^(p) (B, S, S): each port its own leaf."""
    read = Read(**{port: state[part] for port, part in cell.reads.items()})

    def one(u, read):
        return cell.pack(cell.step(u, read, W)[0])

    H = cell.hidden_size
    columns = vmap(jacrev(one, argnums=1))(u, read)
    ports = {}
    for port, block in columns.items():
        J = block.new_zeros(block.shape[0], cell.state_size, cell.state_size)
        start = cell.parts.index(cell.reads[port]) * H
        J[:, :, start : start + H] = block
        ports[port] = J
    return ports


def test_chained_steps_are_the_unrolled_sequence(cell: Cell) -> None:
    x, state = sequence(cell)
    chained = torch.eye(cell.state_size, dtype=x.dtype).expand(x.shape[1], -1, -1)
    for u, z, W in steps(cell, x, state):
        chained = whole(cell, u, z, W) @ chained

    def run(z: Tensor) -> Tensor:
        return cell.pack(tt.unroll(cell, x, cell.unpack(z), engine="reference").final)

    everything = jacobian(run, cell.pack(state))  # (B, S, B, S)
    close(chained, torch.stack([everything[b, :, b] for b in range(x.shape[1])]))


def test_the_ports_add_up(cell: Cell) -> None:
    x, state = sequence(cell)
    for u, z, W in steps(cell, x, state):
        close(torch.stack(list(by_port(cell, u, z, W).values())).sum(0), whole(cell, u, z, W))


def test_the_carousel_has_no_weights_in_between(cell: Cell) -> None:
    """What goes round the explicit port meets only its own unit: every block of its Jacobian is diagonal."""
    if "carousel" not in cell.reads:
        return
    x, state = sequence(cell)
    u, z, W = next(iter(steps(cell, x, state)))
    J = by_port(cell, u, z, W)["carousel"]
    H, parts = cell.hidden_size, len(cell.parts)
    blocks = J.unflatten(2, (parts, H)).unflatten(1, (parts, H)).transpose(2, 3)  # (B, parts, parts, H, H)
    assert torch.equal(blocks, torch.diag_embed(blocks.diagonal(dim1=-2, dim2=-1)))


def test_slopes_and_matrix_are_the_jacobian(cell: Cell) -> None:
    """Where a cell says what bounds it, J = D(φ'(a)) W with |φ'| ≤ γ; elsewhere it says nothing at all."""
    x, state = sequence(cell)
    for u, z, W in steps(cell, x, state):
        read = Read(**{port: z[part] for port, part in cell.reads.items()})
        slopes, matrix = cell.slopes(u, read, W), cell.matrix(u, W)
        assert (slopes is None) == (matrix is None) == (cell.steepest is None)
        if slopes is None or matrix is None or cell.steepest is None:
            continue
        assert slopes.shape == (x.shape[1], cell.hidden_size)
        assert slopes.abs().max() <= cell.steepest
        close(slopes.unsqueeze(-1) * matrix, whole(cell, u, z, W))
