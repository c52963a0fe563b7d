"""Watches the recurrent layers of any torch model while it is trained."""

from __future__ import annotations

import math
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Self, get_args

import numpy as np
import torch
from torch import Tensor, nn

from throughtime.cells.cell import Cell
from throughtime.errors import FlowError, FlowWarning
from throughtime.flow.credit import Derivative
from throughtime.flow.survey import Extent, survey
from throughtime.microscope.catcher import Catcher
from throughtime.microscope.cells import CellCatcher
from throughtime.microscope.finding import find, nothing
from throughtime.microscope.health import Health
from throughtime.microscope.hearing import Ear, inside_backward
from throughtime.microscope.layers import LayerCatcher
from throughtime.records import FlowRecord, NonFinite, Watched


def watch(
    model: nn.Module,
    *,
    every: int | Callable[[int], bool] = 50,
    derivative: Derivative = "boundary",
    thorough: bool = False,
    sequences: int | None = 4,
    lag: int | None = None,
) -> Watch:
    """Look at the gradient through time in every recurrent layer of a model, while it is trained as it always was.

    `model` is any torch module with nn.RNN, nn.LSTM, nn.GRU or throughtime layers inside, or with nn.RNNCell,
    LSTMCell, GRUCell or throughtime cells that a loop of one's own calls step by step. What it computes stays bitwise
    the same: losses, gradients, weights, random numbers.

    `every`: each so many-th training step is measured, from the first on; or a function of the step's number, from 0.
    `lag`: how many steps back the task has to be learned, if you know; findings are held against it.
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

    Raises FlowError for settings that make no sense. A model in which there is nothing to watch is trained all the
    same, with a warning; see `Watch`.
    """
    if not callable(every) and (not isinstance(every, int) or isinstance(every, bool) or every < 1):
        raise FlowError(f"every is a number of steps from 1 on, or a function of the step's number, not {every!r}.")
    if derivative not in get_args(Derivative):
        raise FlowError(f"derivative is one of {', '.join(get_args(Derivative))}, not {derivative!r}.")
    if sequences is not None and sequences < 1:
        raise FlowError(f"sequences is how many of a batch are measured, from 1 on, or None for all; not {sequences}.")
    if lag is not None and (not isinstance(lag, int) or isinstance(lag, bool) or lag < 1):
        raise FlowError(f"lag is how many steps back the task has to be learned, from 1 on, not {lag!r}.")
    return Watch(model, every, derivative, thorough, sequences, lag)


class Watch:
    """What `tt.watch` gives: a context manager to be entered once; or call `start` and `stop`.

    A step begins with the first call of a watched layer, with gradients on, after a gradient came back to one: each
    backward pass is a step, several through one forward pass are one. What a due step caught is measured when the
    next step begins, at the end, or when a record is asked for. Calls under torch.no_grad are no steps.

    Nothing here fails a training step: what could not be measured is told in `left_out`, and a model in which there is
    nothing to watch earns a FlowWarning on entering. FlowError is raised only when `record` is asked for and there is
    none, with why. At every step, due or not, each layer's output and gradient are looked through for NaN and infinity.
    """

    def __init__(
        self,
        model: nn.Module,
        every: int | Callable[[int], bool],
        derivative: Derivative,
        thorough: bool,
        sequences: int | None,
        lag: int | None,
    ) -> None:
        self._model = model
        self._lag = lag
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
        self._nothing = ""  # why there is nothing to watch in the model; empty: there is something
        self._called: set[str] = set()  # layers that were called with gradients on,
        self._quietly: set[str] = set()  # without,
        self._again: set[str] = set()  # inside a backward pass,
        self._reached: set[str] = set()  # and those to whose weights a gradient came
        self._refused: dict[str, None] = {}
        self._missed: dict[str, str] = {}  # layer -> why the last try to measure it failed
        self._records: tuple[FlowRecord, ...] = ()
        self._history: list[FlowRecord] = []
        self._non_finite: dict[tuple[str, str], NonFinite] = {}  # of the last step that had any, by layer and way
        self._stale = False  # whether the last due step could not be measured, or met NaN or infinity since

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
        places = [(record, record.place) for record in records]
        first = [r for r, place in places if place is None or (place.direction == 0 and place.run == 1)]
        return (first or list(records))[-1]

    @property
    def non_finite(self) -> tuple[NonFinite, ...]:
        """Where layers met NaN or infinity, in the last step that had any, due or not; the first place first."""
        forward = {its.layer for its in self._non_finite.values() if its.way == "forward"}
        # What comes back to a layer that put out NaN follows from that, and is no fault of its own.
        first = [its for its in self._non_finite.values() if its.way == "forward" or its.layer not in forward]
        return tuple(sorted(first, key=lambda its: (its.way != "forward", its.input)))

    @property
    def watched(self) -> Watched:
        """Every layer of the last step that was measured, and what was not finite since: what `tt.diagnose` takes."""
        records = self.records
        since = tuple(its for its in self.non_finite if not records or its.update >= records[0].update)
        return Watched(records, since, self.left_out)

    @property
    def history(self) -> tuple[FlowRecord, ...]:
        """Everything that was measured, oldest first."""
        return (*self._history,) if self.records else ()

    @property
    def left_out(self) -> tuple[str, ...]:
        """What could not be watched, and why; what is limited inside a record is in the record's own `left_out`."""
        return tuple(dict.fromkeys((*self._refused, *self._missed.values(), *self._unseen())))

    def scalars(self) -> dict[str, float]:
        """Numbers of the last step that was measured, for a tracker; NaN where a number is not known.

        `flow/LAYER/horizon` in steps, `decay` in steps (what the state takes to lose half of a gradient, behind the
        first step back), `gradient_at_start` and `gradient_at_end`: log10 of ‖dL/dz‖ at the first and last step, and
        `gate_NAME`: the gate's mean opening. The names are the same from step to step: of several runs of steps
        through one layer the longest counts. All are NaN once a due step could not be measured, and after a step that
        met NaN or infinity, until one is measured again.
        """
        found: dict[str, float] = {}
        for record in self.records:
            place = record.place
            layer = record.layer if place is None or place.run == 1 else ""
            if not layer:
                continue
            its: dict[str, float | None] = {
                "horizon": record.horizon,
                "half_life": record.half_life,
                "decay": record.decay,
                "gradient_at_start": float(record.adjoint[0]),
                "gradient_at_end": float(record.adjoint[-1]),
            }
            its |= {f"gate_{gate}": float(np.nanmean(stats.mean)) for gate, stats in record.gates.items()}
            found |= {f"flow/{layer}/{name}": math.nan if v is None else float(v) for name, v in its.items()}
        known = {name: value if math.isfinite(value) else math.nan for name, value in found.items()}
        return dict.fromkeys(known, math.nan) if self._stale else known

    # -- on and off

    def start(self) -> Self:
        """Begin to watch; raises FlowError if it began before. Warns if there is nothing to watch."""
        if self._started:
            raise FlowError("a watch is entered once; make another one with tt.watch(model).")
        found = find(self._model)
        self._refused = dict.fromkeys(found.refused)
        self._started = True
        self._nothing = nothing(self._model, found)
        if self._nothing:
            warnings.warn(self._nothing, FlowWarning, stacklevel=2)
        paths = {id(module): path for path, module in self._model.named_modules()}
        for name, module in found.watchable:
            kind = CellCatcher if isinstance(module, nn.RNNCellBase | Cell) else LayerCatcher
            self._catchers[name] = catcher = kind(name, module, self._sequences)
            catcher.path = paths.get(id(module), name)
            health = Health(name, lambda: self._steps, self._on_non_finite)
            self._ears.append(
                Ear(
                    module,
                    partial(self._on_call, name),
                    self._quiet(name, partial(self._on_output, catcher, health)),
                    partial(self._on_gradient, name, health),
                )
            )
        return self

    def _quiet(self, name: str, look: Callable[..., None]) -> Callable[..., None]:
        def quietly(*args: Any) -> None:
            try:
                look(*args)
            except Exception as error:
                self._missed[name] = f"{name} could not be followed: {type(error).__name__}: {error}"

        return quietly

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

    def _on_output(self, catcher: Catcher, health: Health, module: nn.Module, args: Any, output: Any) -> None:
        catcher.remember(output)
        if torch.is_grad_enabled():
            health.called(module, args, output)

    def _on_non_finite(self, found: NonFinite) -> None:
        """The first of each kind in a step counts; those of an earlier step are forgotten."""
        if any(its.update != found.update for its in self._non_finite.values()):
            self._non_finite = {}
        key = found.layer, found.way
        if key not in self._non_finite or self._non_finite[key].sequence is None:
            self._non_finite[key] = found
        self._stale = True

    def _on_gradient(self, name: str, health: Health, gradient: Tensor) -> None:
        self._reached.add(name)
        self._quiet(name, health.weight)(gradient)
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
            self._stale = len(found) == 0 or any(its.update == self._measured for its in self._non_finite.values())
            if found:
                self._records = tuple(found)
                self._history += found

    @property
    def _measured(self) -> int:
        """The number of the step that is measured: it has been counted, if it ended."""
        return self._steps - self._ended

    def _measure(self, catcher: Catcher) -> list[FlowRecord]:
        extent: Extent = "whole" if self._thorough else "quick"
        update = self._measured
        lost = next((its for its in self.non_finite if its.layer == catcher.name and its.update == update), None)
        return [
            replace(
                survey(seen, moment="during", update=update, derivative=self._derivative, extent=extent),
                non_finite=lost,
                lag=self._lag,
            )
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
                why = (
                    f"something calls {name}.forward(...) in place of {name}(...), which runs no hooks; call the module"
                )
                if "torch._dynamo" in sys.modules:  # something was compiled
                    why += (
                        ". Or the model was compiled into one graph, in which hooks do not run either; then watch it "
                        "without torch.compile for some steps"
                    )
                yield f"a gradient reached the weights of {name}, but none of its calls was seen: {why}."

    def _why_nothing(self) -> str:
        if not self._started:
            return "this watch was never entered: put the training step into `with tt.watch(model) as flow:`."
        if self._nothing:
            return self._nothing
        if self._missed or any(True for _ in self._unseen()):
            lost = (its.sentence for its in self.non_finite[:1])
            return " ".join((*lost, *self._missed.values(), *self._unseen()))
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
