"""Each cell against a loop written again in numpy from its paper, and against torch.nn where torch has the cell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import throughtime as tt
from tests.tolerances import close
from throughtime import cells

T, B, I, H = 7, 3, 4, 5  # noqa: E741
Arrays = dict[str, np.ndarray]


def logistic(a):
    return 1 / (1 + np.exp(-a))


PHI = {"tanh": np.tanh, "relu": lambda a: np.maximum(a, 0), "sigmoid": logistic, "identity": lambda a: a}


class Case:
    """A cell with its parameters as arrays, inputs, and a start that is not zero."""

    def __init__(self, name: str, **options: Any) -> None:
        self.cell = cells.make(name, I, H, dtype=torch.float64, **options)
        self.x = torch.randn(T, B, I, dtype=torch.float64)
        self.start = cells.State(**{p: torch.randn(B, H, dtype=torch.float64) for p in self.cell.parts})
        self.result = tt.unroll(self.cell, self.x, self.start, engine="reference")
        self.p: Arrays = {name: value.detach().numpy() for name, value in self.cell.values().items()}

    def initial(self) -> list[np.ndarray]:
        return [self.start[part].numpy() for part in self.cell.parts]

    def rows(self, name: str, place: int) -> np.ndarray:
        """The rows of one block of a stacked parameter."""
        return self.p[name][place * H : (place + 1) * H]

    def affine(self, x, h, place: int) -> np.ndarray:
        """U x + b + W h + b′ of one block."""
        a = x @ self.rows("weight_ih", place).T + h @ self.rows("weight_hh", place).T
        return a + self.rows("bias_ih", place) + self.rows("bias_hh", place)

    def agrees(self, states: list[tuple[np.ndarray, ...]], gates: dict[str, list[np.ndarray]] | None = None) -> None:
        """Every part of every step, and every gate."""
        for place, part in enumerate(self.cell.parts):
            close(self.result.states[part], torch.from_numpy(np.stack([state[place] for state in states])))
        assert set(self.result.gates) == set(gates or {})
        for name, values in (gates or {}).items():
            close(self.result.gates[name], torch.from_numpy(np.stack(values)))


@pytest.mark.parametrize("phi", PHI)
def test_elman(phi: str) -> None:
    case = Case("elman", nonlinearity=phi)
    (h,) = case.initial()
    states = []
    for x in case.x.numpy():
        h = PHI[phi](case.affine(x, h, 0))
        states.append((h,))
    case.agrees(states)


@pytest.mark.parametrize("phi", PHI)
def test_scalar(phi: str) -> None:
    case = Case("scalar", nonlinearity=phi)
    (h,) = case.initial()
    states = []
    for x in case.x.numpy():
        h = np.stack(
            [
                PHI[phi](case.p["weight_self"][j] * h[:, j] + x @ case.p["weight_ih"][j] + case.p["bias_ih"][j])
                for j in range(H)
            ],
            axis=1,
        )
        states.append((h,))
    case.agrees(states)


@pytest.mark.parametrize("taps", [1, 2, 4])
def test_taps(taps: int) -> None:
    case = Case("taps", taps=taps)
    past = case.initial()  # oldest first
    states = []
    for x in case.x.numpy():
        a = x @ case.p["weight_ih"].T + case.p["bias_ih"] + case.p["bias_hh"]
        for k in range(1, taps + 1):
            a = a + past[-k] @ case.rows("weight_hh", k - 1).T
        past.append(np.tanh(a))
        states.append(tuple(past[-taps:]))
    case.agrees(states)


def test_one_tap_is_an_elman_net() -> None:
    taps, elman = cells.make("taps", I, H, taps=1), cells.make("elman", I, H)
    elman.load_state_dict(taps.state_dict())
    x = torch.randn(T, B, I)
    close(tt.unroll(taps, x).output, tt.unroll(elman, x).output)


@pytest.mark.parametrize("phi", PHI)
def test_carousel(phi: str) -> None:
    case = Case("carousel", nonlinearity=phi)
    (h,) = case.initial()
    written = PHI[phi](case.x.numpy() @ case.p["weight_ih"].T + case.p["bias_ih"])
    totals = h + np.cumsum(written, axis=0)
    case.agrees([(h,) for h in totals], {"candidate": list(written)})


@pytest.mark.parametrize(("phi", "psi"), [("tanh", "tanh"), ("sigmoid", "sigmoid"), ("tanh", "identity")])
def test_selective_write(phi: str, psi: str) -> None:
    """As the slides have it: o_{t-1} is made from h_{t-2} and x_{t-1}, and gates what step t hears of s_{t-1}."""
    case = Case("selective-write", candidate=phi, squash=psi)
    _, heard = case.initial()
    states, gates = [], []
    s_before = o_before = None
    for t, x in enumerate(case.x.numpy()):
        h_before = heard if t == 0 else o_before * PHI[psi](s_before)
        s = PHI[phi](case.affine(x, h_before, 0))
        o = logistic(case.affine(x, h_before, 1))
        states.append((s, o * PHI[psi](s)))
        gates.append(o)
        s_before, o_before = s, o
    case.agrees(states, {"output": gates})


@pytest.mark.parametrize(("phi", "psi"), [("tanh", "tanh"), ("sigmoid", "sigmoid")])
def test_selective_read(phi: str, psi: str) -> None:
    case = Case("selective-read", candidate=phi, squash=psi)
    _, h = case.initial()
    states, gates = [], {"input": [], "candidate": [], "output": []}
    for x in case.x.numpy():
        i, new, o = logistic(case.affine(x, h, 0)), PHI[phi](case.affine(x, h, 1)), logistic(case.affine(x, h, 2))
        s = i * new
        h = o * PHI[psi](s)
        states.append((s, h))
        for name, value in zip(gates, (i, new, o), strict=True):
            gates[name].append(value)
    case.agrees(states, gates)


LSTMS = [
    {},
    {"candidate": "sigmoid", "squash": "sigmoid"},
    {"squash": "identity"},
    {"forget_gate": False},
    {"input_gate": False},
    {"output_gate": False},
    {"forget_gate": False, "input_gate": False},
    {"coupled": True},
    {"peephole": True},
    {"peephole": True, "input_gate": False},
    {"peephole": True, "forget_gate": False},
    {"peephole": True, "output_gate": False},
    {"peephole": True, "coupled": True},
]


@pytest.mark.parametrize("options", LSTMS, ids=str)
def test_lstm(options: dict[str, Any]) -> None:
    """Rows of the weights in the order input, forget, candidate, output, less the gates that are not there."""
    case = Case("lstm", **options)
    s, h = case.initial()
    has = {gate: options.get(f"{gate}_gate", True) for gate in ("input", "forget", "output")}
    has["forget"] &= not options.get("coupled", False)
    place = {}
    for block in ("input", "forget", "candidate", "output"):
        if block == "candidate" or has[block]:
            place[block] = len(place)
    peep = case.p["weight_ch"].reshape(3, H) if options.get("peephole") else np.zeros((3, H))
    phi, psi = PHI[options.get("candidate", "tanh")], PHI[options.get("squash", "tanh")]
    states, gates = [], {gate: [] for gate in place} | ({"forget": []} if options.get("coupled") else {})
    for x in case.x.numpy():
        i = logistic(case.affine(x, h, place["input"]) + peep[0] * s) if has["input"] else np.ones((B, H))
        if options.get("coupled"):
            f = 1 - i
        else:
            f = logistic(case.affine(x, h, place["forget"]) + peep[1] * s) if has["forget"] else np.ones((B, H))
        c = phi(case.affine(x, h, place["candidate"]))
        s = f * s + i * c
        o = logistic(case.affine(x, h, place["output"]) + peep[2] * s) if has["output"] else np.ones((B, H))
        h = o * psi(s)
        states.append((s, h))
        for name, value in {"input": i, "forget": f, "candidate": c, "output": o}.items():
            if name in gates:
                gates[name].append(value)
    case.agrees(states, gates)


@pytest.mark.parametrize("peephole", [False, True])
def test_lstm_with_full_gate_recurrence(peephole: bool) -> None:
    case = Case("lstm-fgr", peephole=peephole)
    i, f, o, s, h = case.initial()
    R = case.p["weight_hh"][4 * H :].reshape(3, 3, H, H)  # [who hears][who is heard], in the order i, f, o
    peep = case.p["weight_ch"].reshape(3, H) if peephole else np.zeros((3, H))
    states, gates = [], {"input": [], "forget": [], "candidate": [], "output": []}
    for x in case.x.numpy():
        heard = [i @ R[g, 0].T + f @ R[g, 1].T + o @ R[g, 2].T for g in range(3)]
        i = logistic(case.affine(x, h, 0) + heard[0] + peep[0] * s)
        f = logistic(case.affine(x, h, 1) + heard[1] + peep[1] * s)
        c = np.tanh(case.affine(x, h, 2))
        s = f * s + i * c
        o = logistic(case.affine(x, h, 3) + heard[2] + peep[2] * s)
        h = o * np.tanh(s)
        states.append((i, f, o, s, h))
        for name, value in zip(gates, (i, f, c, o), strict=True):
            gates[name].append(value)
    case.agrees(states, gates)


def test_full_gate_recurrence_without_it_is_the_lstm() -> None:
    lstm, full = cells.make("lstm", I, H), cells.make("lstm-fgr", I, H)
    assert full.bias_hh.shape == lstm.bias_hh.shape  # one bias for each sum, however many matrices add up to it
    full.load_state_dict(lstm.state_dict() | {"weight_hh": torch.cat([lstm.weight_hh.detach(), torch.zeros(9 * H, H)])})
    x = torch.randn(T, B, I)
    close(tt.unroll(full, x).output, tt.unroll(lstm, x).output)


def test_gru_of_the_lectures() -> None:
    """o_t is the reset gate, before the product; i_t lets the new in, so it is 1 less torch's update gate."""
    case = Case("gru", reset="before", candidate="sigmoid")
    (s,) = case.initial()
    states, gates = [], {"reset": [], "update": [], "candidate": []}
    for x in case.x.numpy():
        o = logistic(case.affine(x, s, 0))
        i = 1 - logistic(case.affine(x, s, 1))
        new = logistic(case.affine(x, o * s, 2))
        s = (1 - i) * s + i * new
        states.append((s,))
        for name, value in zip(gates, (o, 1 - i, new), strict=True):
            gates[name].append(value)
    case.agrees(states, gates)


PEERS = [
    ("elman", {}, torch.nn.RNN, {}),
    ("elman", {"nonlinearity": "relu"}, torch.nn.RNN, {"nonlinearity": "relu"}),
    ("lstm", {}, torch.nn.LSTM, {}),
    ("gru", {}, torch.nn.GRU, {}),
]


@pytest.mark.parametrize(("name", "options", "peer", "theirs"), PEERS)
def test_torch_has_the_same_cell(name: str, options: dict, peer: type, theirs: dict) -> None:
    """Outputs, and the gradients of inputs and parameters, with the parameters torch.nn draws from the same seed."""
    torch.manual_seed(5)
    cell = cells.make(name, I, H, dtype=torch.float64, **options)
    torch.manual_seed(5)
    module = peer(I, H, dtype=torch.float64, **theirs)
    for (own, value), (other, expected) in zip(cell.named_parameters(), module.named_parameters(), strict=True):
        assert other == f"{own}_l0"
        assert torch.equal(value, expected)
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    ours, theirs_out = tt.unroll(cell, x, engine="reference").output, module(x)[0]
    close(ours, theirs_out)
    gradients = torch.autograd.grad(ours.square().sum(), [x, *cell.parameters()])
    expected = torch.autograd.grad(theirs_out.square().sum(), [x, *module.parameters()])
    for gradient, other in zip(gradients, expected, strict=True):
        close(gradient, other)
