"""torch.nn's own kernels, where the cell is theirs: ATen and oneDNN on the CPU, cuDNN on a GPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import _VF, Tensor
from torch.autograd import forward_ad

from throughtime.cells.cell import Cell, State
from throughtime.cells.elman import Elman
from throughtime.cells.gru import GRU
from throughtime.cells.lstm import LSTM
from throughtime.engines.layers import LayerByLayer
from throughtime.engines.seam import Engine, Job, Stack, Stacked, StackEngine, Unrolled

Kernel = Callable[..., tuple[Tensor, ...]]  # output, then what is left of the state

_KERNELS: dict[str, Kernel] = {
    "RNN_TANH": _VF.rnn_tanh,
    "RNN_RELU": _VF.rnn_relu,
    "LSTM": _VF.lstm,
    "GRU": _VF.gru,
}
_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")  # in the order the kernels take them
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_LSTM_AS_TORCHS = {
    "candidate": "tanh", "squash": "tanh", "forget_gate": True, "input_gate": True, "output_gate": True,
    "coupled": False, "peephole": False,
}  # fmt: skip


def mode(cell: Cell) -> str | None:
    """What torch calls the recurrence, if it is one of theirs with these options; a subclass may step differently."""
    kind, options = type(cell), cell.options
    if kind is LSTM and options == _LSTM_AS_TORCHS:
        return "LSTM"
    if kind is GRU and options == {"reset": "after", "candidate": "tanh"}:
        return "GRU"
    if kind is Elman and options["nonlinearity"] in ("tanh", "relu"):
        return f"RNN_{options['nonlinearity'].upper()}"
    return None


class Native(Engine):
    """One cell in one direction through torch.nn's kernels, where what they return is all that is asked for."""

    name: ClassVar = "native"

    def why_not(self, job: Job) -> str | None:
        """As for stacks, and whatever needs the inside of a step."""
        reason = _why_not(job.cell, job.x, job.damping)
        if reason is None and job.inside and type(job.cell) is not Elman:
            return "torch.nn's kernels do not show the gates and states inside the sequence."
        return reason

    def run(self, job: Job) -> Unrolled:
        """One call of the kernel, or one for each different length."""
        output, final = _once(job, job.x, job.state) if job.lengths is None else _by_length(job)
        return Unrolled(
            cell=job.cell,
            states={job.cell.parts[-1]: output},
            gates={},
            final=final,
            engine=self.name,
            initial=job.state,
            lengths=job.lengths,
        )


class NativeStack(StackEngine):
    """Whole stacks through torch.nn's kernels: layers, directions, packed sequences, dropout.

    On the CPU their gradients can be differentiated again. cuDNN's cannot: ask for engine="reference", or run the
    forward pass within `torch.backends.cudnn.flags(enabled=False)`.
    """

    name = "native"

    def __init__(self) -> None:
        self._by_length = LayerByLayer(Native())

    def why_not(self, stack: Stack) -> str | None:
        """Cells and calls that torch.nn has no kernel for."""
        return _why_not(stack.cells[0], stack.x, stack.damping)

    def run(self, stack: Stack) -> Stacked:
        """One call of the kernel, or one for each different length where it must be or is faster."""
        if stack.batch_sizes is not None and _better_by_length(stack, stack.batch_sizes):
            return self._by_length.run(stack)
        output, final = _call(stack)
        return Stacked(output, final, self.name)


_EMPTY = "torch.nn's kernels do not run a sequence of length 0."


def _why_not(cell: Cell, x: Tensor, damping: float | None) -> str | None:
    theirs = mode(cell)
    if theirs is None:
        return f'torch.nn has no kernel for the cell "{cell.name}" with these options.'
    if damping is not None:
        return "clipping while backpropagating acts at every step, which torch.nn's kernels do not show."
    if x.dtype not in _DTYPES:
        return f"torch.nn's kernels do not take {x.dtype}."
    if x.shape[0] == 0:
        return _EMPTY
    if torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0:
        return "torch.nn's kernels do not have the rules that torch.func and forward differentiation need."
    if theirs == "LSTM" and x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        return "torch.nn's LSTM kernel fails under autocast on some CPUs, so it is not used there."
    return None


def _better_by_length(stack: Stack, batch_sizes: Tensor) -> bool:
    """Whether a packed stack runs in one call for each different length, instead of one for all.

    It must where there is a sequence of length 0, which torch's packed kernels refuse. It pays for the LSTM in
    float32 on the CPU: packed, torch misses oneDNN's kernel, which is several times as fast, but takes a while to
    start. The bound is from measurements: past it the ratio was 0.6 or less, before it more than 1 was seen.
    """
    if int(batch_sizes[0]) < stack.state["h"].shape[1]:
        return True
    x, steps = stack.x, len(batch_sizes)
    if type(stack.cells[0]) is not LSTM or x.dtype != torch.float32 or x.device.type != "cpu" or steps < 25:
        return False
    pieces = len(torch.unique_consecutive(batch_sizes))  # if there is one, torch sees that nothing is packed
    return pieces > 1 and steps >= 15 + 5 * pieces and torch._C._has_mkldnn and torch._C._get_mkldnn_enabled()


def _by_length(job: Job) -> tuple[Tensor, State]:
    """Run all sequences to the end of the shortest, those that are left to the end of the next, and so on."""
    assert job.lengths is not None
    x, running = job.x, job.state
    ends = job.lengths.tolist()
    order = sorted(range(len(ends)), key=lambda b: -ends[b])
    if order != list(range(len(ends))):
        back = [0] * len(order)
        for rank, b in enumerate(order):
            back[b] = rank
        at = torch.tensor(order, device=x.device)
        turned = replace(job, x=x[:, at], state=running.map(lambda part: part[at]), lengths=job.lengths[at])
        output, final = _by_length(turned)
        return output[:, back], final.map(lambda part: part[back])

    stops = sorted({0, *ends, len(x)})
    outputs: list[Tensor] = []
    ended: list[State] = []  # of the sequences that are done, shortest last
    for stop, piece in zip(stops[1:], torch.split(x, [b - a for a, b in pairwise(stops)]), strict=True):
        left = sum(end >= stop for end in ends)
        ended.insert(0, State(**{name: part[left:] for name, part in running.items()}))
        running = State(**{name: part[:left] for name, part in running.items()})
        held = torch.cat([state.h for state in ended]).expand(len(piece), -1, -1)
        if left:
            output, running = _once(job, piece[:, :left], running)
            held = torch.cat([output, held], dim=1)
        outputs.append(held)
    final = State(**{part: torch.cat([state[part] for state in (running, *ended)]) for part in job.cell.parts})
    return torch.cat(outputs), final


def _once(job: Job, x: Tensor, state: State) -> tuple[Tensor, State]:
    stack = Stack((job.cell,), (job.parameters,), x, state.map(lambda part: part.unsqueeze(0)))
    output, final = _call(stack)
    return output, final.map(lambda part: part.squeeze(0))


def _call(stack: Stack) -> tuple[Tensor, State]:
    cell = stack.cells[0]
    kernel = _KERNELS[mode(cell) or ""]
    names = _NAMES if cell.bias else _NAMES[:2]
    weights = [parameters[name] for parameters in stack.parameters for name in names]
    # cuDNN keeps what its backward pass needs only in training mode; in evaluation dropout is off by its rate.
    training = stack.training or (stack.x.is_cuda and torch.is_grad_enabled())
    dropout = stack.dropout if stack.training else 0.0
    hidden = (stack.state["h"], stack.state["s"]) if type(cell) is LSTM else stack.state["h"]
    layout = (cell.bias, len(stack.cells), dropout, training, stack.directions == 2)
    arguments: tuple[Any, ...]
    if stack.batch_sizes is None:
        arguments = (stack.x, hidden, weights, *layout, False)
    else:
        arguments = (stack.x, stack.batch_sizes, hidden, weights, *layout)
    if stack.x.is_cuda:
        # Parameters that stand in for the module's own lie anywhere; cuDNN copies them, as right and a little slower.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous chunk")
            output, *final = kernel(*arguments)
    else:
        output, *final = kernel(*arguments)
    return output, State(s=final[1], h=final[0]) if type(cell) is LSTM else State(h=final[0])
