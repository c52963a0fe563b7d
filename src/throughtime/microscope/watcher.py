"""Watches the recurrent layers of any torch model while it is trained."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import TracebackType
from typing import Self, get_args

import numpy as np
import torch
from torch import Tensor, nn

from throughtime.cells.cell import Cell
from throughtime.errors import FlowError
from throughtime.flow.credit import Derivative
from throughtime.flow.survey import Extent, survey
from throughtime.microscope.catcher import Catcher
from throughtime.microscope.cells import CellCatcher
from throughtime.microscope.finding import LOOKED_FOR, find
from throughtime.microscope.hearing import Ear, inside_backward
from throughtime.microscope.layers import LayerCatcher
from throughtime.records import FlowRecord


def watch(
    model: nn.Module,
    *,
    every: int | Callable[[int], bool] = 50,
    derivative: Derivative = "boundary",
    thorough: bool = False,
    sequences: int | None = 4,
) -> Watch:
    """Look at the gradient through time in every recurrent layer of a model, while it is trained as it always was.

    `model` is any torch module with nn.RNN, nn.LSTM, nn.GRU or throughtime layers inside, or with nn.RNNCell,
    LSTMCell, GRUCell or throughtime cells that a loop of one's own calls step by step. What it computes stays bitwise
    the same: losses, gradients, weights, random numbers.

    `every`: each so many-th training step is measured, from the first on; or a function of the step's number, from 0.
    `derivative` as in `tt.flow.credit`. `thorough`: all measures, for a look now and then, instead of those that are
    cheap enough to be left on. `sequences`: at most so many of each batch, evenly spread by length; None: all.

    A step that is measured costs a few times itself, any other next to nothing: a few percent of a run by default.

    >>> import torch, throughtime as tt
    >>> model = torch.nn.LSTM(3, 4)
    >>> with tt.watch(model) as flow:
    ...     output, _ = model(torch.randn(20, 2, 3))
    ...     output[-1].sum().backward()
    >>> flow.record.layer, flow.record.T, flow.record.update
    ('lstm', 20, 0)

    Raises FlowError for settings that make no sense; see `Watch` for what happens when nothing can be measured.
    """
    if not callable(every) and (not isinstance(every, int) or isinstance(every, bool) or every < 1):
        raise FlowError(f"every is a number of steps from 1 on, or a function of the step's number, not {every!r}.")
    if derivative not in get_args(Derivative):
        raise FlowError(f"derivative is one of {', '.join(get_args(Derivative))}, not {derivative!r}.")
    if sequences is not None and sequences < 1:
        raise FlowError(f"sequences is how many of a batch are measured, from 1 on, or None for all; not {sequences}.")
    return Watch(model, every, derivative, thorough, sequences)


class Watch:
    """What `tt.watch` gives: a context manager to be entered once; or call `start` and `stop`.

    A step begins with the first call of a watched layer, with gradients on, after a gradient came back to one: each
    backward pass is a step, several through one forward pass are one. What a due step caught is measured when the
    next step begins, at the end, or when a record is asked for. Calls under torch.no_grad are no steps.

    Nothing here fails a training step: what could not be measured is told in `left_out`. Raises FlowError on entering
    a model in which there is nothing to watch, and when `record` is asked for and there is none, with why.
    """

    def __init__(
        self,
        model: nn.Module,
        every: int | Callable[[int], bool],
        derivative: Derivative,
        thorough: bool,
        sequences: int | None,
    ) -> None:
        self._model = model
        self._every = every
        self._derivative: Derivative = derivative
        self._thorough = thorough
        self._sequences = sequences
        self._lock = threading.RLock()
        self._ears: list[Ear] = []
        self._catchers: dict[str, Catcher] = {}
        self._started = self._stopped = False
        self._steps = 0  # to which a gradient came back
        self._ended = True  # whether a gradient came back to the step that began last
        self._open = False  # whether the step that began last is being caught
        self._opened = 0  # steps that were
        self._called: set[str] = set()  # layers that were called with gradients on,
        self._quietly: set[str] = set()  # without,
        self._again: set[str] = set()  # inside a backward pass,
        self._reached: set[str] = set()  # and those to whose weights a gradient came
        self._refused: dict[str, None] = {}
        self._missed: dict[str, str] = {}  # layer -> why the last try to measure it failed
        self._records: tuple[FlowRecord, ...] = ()
        self._history: list[FlowRecord] = []

    # -- what a person asks for

    @property
    def step(self) -> int:
        """Training steps seen so far; a record's `update` is its step's number, from 0."""
        return self._steps

    @property
    def records(self) -> tuple[FlowRecord, ...]:
        """Of the last step that was measured: one for each layer, direction and chain, in the order of the model."""
        if self._open and not inside_backward() and any(c.answered for c in self._catchers.values()):
            self._settle()
        return self._records

    @property
    def record(self) -> FlowRecord:
        """The one of `records` that is nearest the loss: of the model's last layer, its forward direction.

        Raises FlowError, with why, if nothing was measured.
        """
        records = self.records
        if not records:
            raise FlowError(self._why_nothing())
        forward = [record for record in records if not record.layer.partition(" ")[0].endswith("_reverse")] or records
        return next((record for record in reversed(forward) if " (" not in record.layer), forward[-1])

    @property
    def history(self) -> tuple[FlowRecord, ...]:
        """Everything that was measured, oldest first."""
        return (*self._history,) if self.records else ()

    @property
    def left_out(self) -> tuple[str, ...]:
        """What could not be watched, and why; what is limited inside a record is in the record's own `left_out`."""
        return tuple(dict.fromkeys((*self._refused, *self._missed.values(), *self._unseen())))

    def scalars(self) -> dict[str, float]:
        """Numbers of the last step that was measured, for a tracker; finite ones alone.

        `flow/LAYER/horizon` and `half_life` in steps (not there if no lag was long enough to know),
        `gradient_at_start` and `gradient_at_end`: log10 of ‖dL/dz‖ at the first and last step, and `gate_NAME`: the
        gate's mean opening.
        """
        found: dict[str, float] = {}
        for record in self.records:
            its: dict[str, float | None] = {
                "horizon": record.horizon,
                "half_life": record.half_life,
                "gradient_at_start": float(record.adjoint[0]),
                "gradient_at_end": float(record.adjoint[-1]),
            }
            its |= {f"gate_{gate}": float(np.nanmean(stats.mean)) for gate, stats in record.gates.items()}
            found |= {f"flow/{record.layer}/{name}": float(v) for name, v in its.items() if v is not None}
        return {name: value for name, value in found.items() if math.isfinite(value)}

    # -- on and off

    def start(self) -> Self:
        """Begin to watch; raises FlowError if there is nothing to watch, or if it began before."""
        if self._started:
            raise FlowError("a watch is entered once; make another one with tt.watch(model).")
        found = find(self._model)
        self._refused = dict.fromkeys(found.refused)
        if not found.watchable:
            whole = f"there is nothing to watch in {type(self._model).__name__}"
            raise FlowError(
                f"{whole}: {' '.join(found.refused)}" if found.refused else f"{whole}: looked for {LOOKED_FOR}."
            )
        self._started = True
        for name, module in found.watchable:
            kind = CellCatcher if isinstance(module, nn.RNNCellBase | Cell) else LayerCatcher
            self._catchers[name] = kind(name, module, self._sequences)
            self._ears.append(Ear(module, partial(self._on_call, name), partial(self._on_gradient, name)))
        return self

    def stop(self) -> None:
        """Measure what was caught last, and take every hook off; what was measured stays."""
        self._settle()
        self._let_go()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if kind is None or issubclass(kind, Exception):
            self.stop()
        else:  # somebody wants to be out of here at once
            self._let_go()

    def _let_go(self) -> None:
        self._stopped, self._open = self._started, False
        for ear in self._ears:
            ear.close()
        self._ears = []
        for catcher in self._catchers.values():
            catcher.close()

    # -- inside the person's step: nothing here may fail it

    def _on_call(self, name: str) -> None:
        if not torch.is_grad_enabled():
            self._quietly.add(name)
        elif inside_backward():  # a checkpoint's second run
            self._again.add(name)
        else:
            self._called.add(name)
            if self._ended:
                self._begin()

    def _on_gradient(self, name: str) -> None:
        self._reached.add(name)
        if not self._ended:
            self._ended = True
            self._steps += 1

    def _begin(self) -> None:
        with self._lock:
            if not self._ended:
                return
            self._settle()
            self._ended = False
            if self._due(self._steps):
                self._open = True
                self._opened += 1
                for name, catcher in self._catchers.items():
                    try:
                        catcher.open()
                    except Exception as error:
                        self._missed[name] = f"{name} could not be followed: {type(error).__name__}: {error}"

    def _due(self, step: int) -> bool:
        if not callable(self._every):
            return step % self._every == 0
        try:
            return bool(self._every(step))
        except Exception as error:
            self._missed["every"] = f"whether step {step} was due could not be known: every({step}) raised {error!r}."
            return False

    # -- measuring

    def _settle(self) -> None:
        """Measure what the last due step caught, if that was not done yet."""
        with self._lock:
            if not self._open:
                return
            self._open = False
            found: list[FlowRecord] = []
            with _plainly():
                for name, catcher in self._catchers.items():
                    try:
                        found += self._measure(catcher)
                        self._missed.pop(name, None)
                    except FlowError as error:
                        self._missed[name] = str(error)
                    except Exception as error:
                        self._missed[name] = f"{name} could not be measured: {type(error).__name__}: {error}"
                    finally:
                        catcher.close()
            if found:
                self._records = tuple(found)
                self._history += found

    def _measure(self, catcher: Catcher) -> list[FlowRecord]:
        extent: Extent = "whole" if self._thorough else "quick"
        update = self._steps - self._ended  # the step that is being measured has been counted, if it ended
        return [
            survey(seen, moment="during", update=update, derivative=self._derivative, extent=extent)
            for seen in catcher.sightings()
        ]

    def _unseen(self) -> Iterator[str]:
        """Layers that a gradient reached although no call of theirs was seen."""
        for name in (name for name in self._catchers if name in self._reached - self._called):
            if name in self._again:
                yield (
                    f"{name} ran without gradients, and once more inside the backward pass (activation checkpointing, "
                    "reentrant), where its calls cannot be told apart; checkpoint with use_reentrant=False."
                )
            else:
                yield (
                    f"a gradient reached the weights of {name}, but none of its calls was seen: the model was compiled "
                    "into one graph, in which hooks do not run. Watch it without torch.compile for some steps."
                )

    def _why_nothing(self) -> str:
        if not self._started:
            return "this watch was never entered: put the training step into `with tt.watch(model) as flow:`."
        if self._missed or any(True for _ in self._unseen()):
            return " ".join((*self._missed.values(), *self._unseen()))
        names = ", ".join(self._catchers)
        if not self._called:
            quietly = ", ".join(name for name in self._catchers if name in self._quietly)
            what = f"{quietly} ran without gradients alone (torch.no_grad)" if quietly else f"{names} was not called"
            return (
                f"nothing was measured: {what} while it was watched; put forward and backward pass of the very model "
                "that was given to tt.watch inside."
            )
        if not self._opened:
            return f"nothing was measured: none of the {self._steps} steps so far was due; see `every`."
        return (
            f"nothing was measured: {names} was called, but no gradient has come back; call backward on a loss that "
            "depends on it."
        )


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


@contextmanager
def _plainly() -> Iterator[None]:
    """Measure in the numbers' own dtype, whatever is switched on where the person's code happens to be."""
    with ExitStack() as off:
        off.enter_context(torch.inference_mode(False))
        off.enter_context(torch.enable_grad())
        if torch._C._autograd._top_saved_tensors_default_hooks(False) is not None:
            # A checkpoint around the call counts what is saved for backward, and must not count what is saved here.
            off.enter_context(torch.autograd.graph.saved_tensors_hooks(_as_it_is, _as_it_is))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                off.enter_context(torch.autocast(kind, enabled=False))
        yield
