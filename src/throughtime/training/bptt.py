"""Backpropagation through time, full and truncated: which steps one optimiser step looks at.

Truncated (k1, k2): a step every k1, back over k2. The state is carried from window to window without its graph, so
memory follows k2 and not the length of the sequence.

Source: Williams and Peng, "An efficient gradient-based algorithm for on-line training of recurrent network
trajectories", 1990: BPTT(h; h′) with h = k2, h′ = k1.

Dimensions: T steps, B sequences.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from throughtime.cells.cell import State
from throughtime.data.dataset import Batch
from throughtime.errors import TrainingError
from throughtime.models import Net, Tally
from throughtime.records import Settings


@dataclass(frozen=True)
class Window:
    """The steps of one optimiser step."""

    start: int  # the first step that is run
    counted: int  # the first step whose loss counts
    stop: int  # one past the last step
    keep: int  # where the next window starts: the state before this step is carried to it


@dataclass(frozen=True)
class Truncation:
    """How far each step looks back."""

    window: int | None = None  # k2, steps; None: as far as the sequence goes
    stride: int | None = None  # k1, steps; None: as window
    each_step: bool = False  # whether there is an answer at each step, or one for the sequence

    def windows(self, steps: int) -> list[Window]:
        """The windows of a batch of `steps` steps, in order; every step counts in exactly one.

        With one answer a sequence there is one: the state is led to the last k2 steps without a graph (`tally`).
        """
        if self.window is None or not self.each_step:
            return [Window(0, 0, steps, steps)]
        k2, k1 = self.window, self.stride or self.window
        return [
            Window(max(0, s + k1 - k2), s, min(s + k1, steps), min(max(0, s + 2 * k1 - k2), steps))
            for s in range(0, steps, k1)
        ]

    def tally(
        self,
        net: Net,
        batch: Batch,
        window: Window,
        state: State | None,
        *,
        device: torch.device,
        damping: float | None = None,
    ) -> tuple[Tally, State | None]:
        """The window's losses, with their graph, and the state to carry on, without one; None at the very start.

        `batch` stays on the host; only the window goes to `device`.
        """
        if self.each_step:
            return _stretch(net, batch, window, state, device, damping)
        return _ending(net, batch, self.window, device, damping), None


def truncation(settings: Settings, net: Net, each_step: bool) -> Truncation:
    """The truncation that settings ask for.

    Raises TrainingError where a model cannot be trained in windows.
    """
    if settings.window is not None and net.recurrent.bidirectional:
        raise TrainingError(
            "a bidirectional model reads each sequence from both ends, so it cannot be trained in windows; "
            "leave window out, or use bidirectional=False."
        )
    if settings.window is not None and net.readout == "mean":
        raise TrainingError(
            'the readout "mean" needs every output of a sequence, so it cannot be trained in windows; '
            'leave window out, or use readout="last".'
        )
    if each_step != (net.readout == "every"):
        answers, fitting = ("each step", '"every"') if each_step else ("the whole sequence", '"last" or "mean"')
        raise TrainingError(
            f'the data has an answer for {answers} and the model\'s readout is "{net.readout}"; '
            f"build the model with readout {fitting}."
        )
    return Truncation(settings.window, settings.stride, each_step)


def answers(batch: Batch, window: Window) -> int:
    """How many answers count in a window of a batch on the host."""
    if not batch.each_step:
        return batch.size
    piece = batch.window(window.counted, window.stop)
    return int(piece.lengths.sum() if piece.counted is None else piece.counted.sum())


def _stretch(
    net: Net, batch: Batch, window: Window, state: State | None, device: torch.device, damping: float | None
) -> tuple[Tally, State | None]:
    """Run a window of a batch with an answer at each step; split where the next one starts, to have its state."""
    piece = batch.window(window.start, window.stop)
    x, lengths = net.encode(piece.x.to(device)), piece.lengths
    steps, cut = window.stop - window.start, window.keep - window.start
    if cut == 0 or cut >= steps:
        output, final = net.recurrent.run(x, state, lengths, damping=damping)
        carried = final if cut else state
    else:
        early, carried = net.recurrent.run(x[:cut], state, lengths.clamp(max=cut), damping=damping)
        late, _ = net.recurrent.run(x[cut:], carried, (lengths - cut).clamp(min=0), damping=damping)
        output = torch.cat((early, late))
    counting = batch.window(window.counted, window.stop).to(device)
    prediction = net.decode(output[window.counted - window.start :], counting.lengths)
    return net.tally(prediction, counting), None if carried is None else carried.map(Tensor.detach)


def _ending(net: Net, batch: Batch, window: int | None, device: torch.device, damping: float | None) -> Tally:
    """Run a batch with one answer a sequence; only the last `window` steps of each sequence keep a graph."""
    x, lengths, state = batch.x, batch.lengths, None
    if window is not None and window < x.shape[0]:
        ahead = (lengths - window).clamp(min=0)
        with torch.no_grad():
            for start in range(0, int(ahead.max()), window):
                piece = x[start : start + window]
                ends = (ahead - start).clamp(0, piece.shape[0])
                _, state = net.recurrent.run(net.encode(piece.to(device)), state, ends)
        steps = (torch.arange(window).unsqueeze(-1) + ahead).clamp(max=x.shape[0] - 1)
        x, lengths = x[steps, torch.arange(batch.size)], lengths - ahead
    output, _ = net.recurrent.run(net.encode(x.to(device)), state, lengths, damping=damping)
    last = Batch(x, lengths, batch.y).to(device)
    return net.tally(net.decode(output, last.lengths), last)
