"""Layers and directions of one recurrence, as a torch module.

Dimensions: T steps, B sequences, I inputs, H units, L layers, D directions.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from throughtime.cells.cell import Cell, State, make
from throughtime.cells.contract import require_parameters_declared, require_tensor
from throughtime.cells.initialise import initialise
from throughtime.cells.options import options_of
from throughtime.cells.share_check import refuse_drawing, require_share_of_one_step
from throughtime.engines import Stack, check_engine, choose_stack, flatten
from throughtime.engines.packing import run_padded
from throughtime.engines.recompute import recompute
from throughtime.engines.seam import compiling
from throughtime.errors import CellError


@dataclass(frozen=True)
class Padded:
    """What `Recurrent.run` hands to the module's call, where hooks see it, as they see any other input."""

    x: Tensor  # (T, B, I), whatever `batch_first` says
    lengths: Tensor | None
    damping: float | None


class Recurrent(nn.Module):
    """Any known cell in layers and directions, called as torch.nn's recurrent modules are.

    `module(x)` or `module(x, state)` takes x (T, B, I), (B, T, I) with `batch_first`, (T, I) for one sequence, or a
    PackedSequence, and a State whose parts are (L·D, B, H) (without B for one sequence; zeros if None). It answers
    (output, State): the output (T, B, D·H), laid out and packed as x was. Parameters have torch.nn's names and
    layouts: `weight_ih_l{k}`, `weight_hh_l{k}`, `bias_ih_l{k}`, `bias_hh_l{k}`, `..._reverse`, and the cell's own.

    `dropout` zeroes outputs of all layers but the last while training. `engine` is "cpu" (kernels compiled from
    the cell's step), "native" (torch's own kernels), "triton" (compiled, on a GPU), "reference" (the step in a loop) or
    "auto", the first of these that serves; `served` names the one that served last. Parameters are drawn as torch.nn
    draws them, then `forget_bias` (the sum of the gate's biases), `input_init` ("lecun"), `recurrent_init`
    ("orthogonal", "identity") and `chrono` (the longest lag in steps) are applied in every layer and direction. Further
    keywords are the cell's options.

    With `recompute` the way back makes what it needs of each step again, in windows of √T steps: one more forward pass,
    and memory beside the outputs for √T steps alone, so that very long sequences fit. The numbers stay the same, to
    rounding in the parameters' gradients.

    Gradients can be differentiated again, as often as one likes, but for those of cuDNN (`served` is "native" on a
    GPU): ask for engine="reference" there.

    Raises CellError for sizes, options or inputs that do not fit, EngineError if the engine asked for cannot serve.
    """

    torch_state: ClassVar[tuple[str, ...] | None] = None  # the parts in torch.nn's order; None: a State in and out

    def __init__(
        self,
        cell: str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        engine: str = "auto",
        recompute: bool = False,
        forget_bias: float | None = None,
        input_init: Literal["lecun"] | None = None,
        recurrent_init: Literal["orthogonal", "identity"] | None = None,
        chrono: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **cell_options: Any,
    ) -> None:
        super().__init__()
        check_engine(engine)
        if not isinstance(recompute, bool):
            raise CellError(f"recompute must be True or False, got {recompute!r}")
        if cell_options.pop("proj_size", 0) != 0:
            raise CellError("there are no projections (proj_size) here; put an nn.Linear after the layer")
        _check_arguments(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.engine = engine
        self.recompute = recompute
        self.served: str | None = None  # the engine that served last
        self.forget_bias = forget_bias
        self.input_init = input_init
        self.recurrent_init = recurrent_init
        self.chrono = chrono

        def template(inputs: int, device: str = "meta") -> Cell:
            return make(cell, inputs, hidden_size, bias=bias, device=device, dtype=dtype, **cell_options)

        # One template a layer, for its equations and shapes. A tuple is not registered as a submodule, so the
        # templates add nothing to state_dict, and parameters always come from this module.
        self.cells = tuple(template(hidden_size * self.directions if k else input_size) for k in range(num_layers))
        self._require_layer_cells(template)
        self._names = tuple(
            tuple((name, f"{name}_l{layer}{'_reverse' * direction}") for name in self.cells[layer].shapes())
            for layer in range(num_layers)
            for direction in range(self.directions)
        )
        for index, names in enumerate(self._names):
            shapes = self.cells[index // self.directions].shapes()
            for mine, name in names:
                self.register_parameter(name, nn.Parameter(torch.empty(shapes[mine], device=device, dtype=dtype)))
        self.reset_parameters()
        self.flatten_parameters()

    @property
    def cell(self) -> Cell:
        """The template of layer 0: equations and shapes, without numbers."""
        return self.cells[0]

    @property
    def directions(self) -> int:
        """D."""
        return 2 if self.bidirectional else 1

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """The parameters of each layer and direction in torch.nn's order, under torch.nn's name for them."""
        return [[self._value(name) for _, name in names] for names in self._names]

    def parameters_of(self, layer: int, direction: int = 0) -> dict[str, Tensor]:
        """The parameters of one layer and direction (0 forward, 1 reverse) under the cell's names for them."""
        if not (0 <= layer < self.num_layers and 0 <= direction < self.directions):
            raise CellError(
                f"there is no layer {layer}, direction {direction}: this module has {self.num_layers} layers and "
                f"{self.directions} directions, counted from 0"
            )
        return {mine: self._value(name) for mine, name in self._names[layer * self.directions + direction]}

    @property
    def start(self) -> dict[str, Any]:
        """What was asked for of the parameters' start, by keyword."""
        names = ("forget_bias", "input_init", "recurrent_init", "chrono")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def reset_parameters(self) -> None:
        """Draw every parameter anew, as at construction."""
        for layer, direction in self._places():
            initialise(
                self.cells[layer],
                self.parameters_of(layer, direction),
                forget_bias=self.forget_bias,
                inputs=self.input_init,
                recurrent=self.recurrent_init,
                chrono=self.chrono,
            )

    def flatten_parameters(self) -> None:
        """Lay the parameters out as cuDNN wants them, where it would serve; done at construction and after moves."""
        flatten(self.cells, self.all_weights)

    def forward(self, input: Tensor | PackedSequence | Padded, hx: Any = None) -> tuple[Any, Any]:
        """Run the sequences; see the class."""
        if isinstance(input, Padded):
            return self._forward_padded(input, hx)
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx)
        require_tensor(input, "x")
        if input.ndim not in (2, 3):
            raise CellError(f"x must have 3 dimensions, or 2 for one sequence; got {tuple(input.shape)}")
        if input.ndim == 2:
            output, final = self._serve(*self._ready(input.unsqueeze(1), self._given(hx, one=True)))
            return output.squeeze(1), self._answer(final.map(lambda part: part.squeeze(1)))
        x = input.transpose(0, 1) if self.batch_first else input
        output, final = self._serve(*self._ready(x, self._given(hx)))
        return output.transpose(0, 1) if self.batch_first else output, self._answer(final)

    def run(
        self,
        x: Tensor,
        state: State | None = None,
        lengths: Tensor | None = None,
        *,
        damping: float | None = None,
    ) -> tuple[Tensor, State]:
        """Run padded sequences x (T, B, I) that end at `lengths` (B,), whatever `batch_first` says.

        The state's parts are (L·D, B, H), zeros if None. Returns the output (T, B, D·H), zero past each length, and
        the final State, of each sequence's last step. `damping` is clipping while backpropagating: in every layer
        and direction, each sequence's gradient on the state keeps a norm of at most that, at every step.

        Raises CellError if shapes or lengths do not fit. Lengths on a GPU cost one transfer.
        """
        answer: tuple[Tensor, State] = self(Padded(x, lengths, damping), state)
        return answer

    def extra_repr(self) -> str:
        """As torch.nn prints it, then the options that were given."""
        shown = [f"{self.input_size}, {self.hidden_size}"]
        plain = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False}
        shown += [f"{name}={getattr(self, name)}" for name, usual in plain.items() if getattr(self, name) != usual]
        defaults = {option.name: option.default for option in options_of(type(self.cell))}
        shown += [f"{name}={value!r}" for name, value in self.cell.options.items() if value != defaults[name]]
        if self.torch_state is None:
            shown.insert(0, repr(self.cell.name))
        if self.engine != "auto":
            shown.append(f"engine={self.engine!r}")
        if self.recompute:
            shown.append("recompute=True")
        return ", ".join(shown)

    # -- from the module's call to the seam

    def _forward_packed(self, packed: PackedSequence, hx: Any) -> tuple[PackedSequence, Any]:
        data, batch_sizes, there, back = packed
        data, state = self._ready(data, self._given(hx), int(batch_sizes[0]))
        if there is not None and hx is not None:
            state = state.map(lambda part: part.index_select(1, there))
        output, final = self._serve(data, state, batch_sizes)
        if back is not None:
            final = final.map(lambda part: part.index_select(1, back))
        return PackedSequence(output, batch_sizes, there, back), self._answer(final)

    def _forward_padded(self, padded: Padded, state: State | None) -> tuple[Tensor, State]:
        x, lengths, damping = padded.x, padded.lengths, padded.damping
        require_tensor(x, "x")
        if x.ndim != 3:
            raise CellError(f"x must be (T, B, {self.input_size}), got {tuple(x.shape)}")
        x, start = self._ready(x, state)
        if compiling():
            return self._serve(x, start, lengths, damping=damping)
        return run_padded(partial(self._serve, damping=damping), x, start, lengths)

    def _given(self, hx: Any, *, one: bool = False) -> State | None:
        """The caller's state as a State of batches; `one`: of a single sequence, without B."""
        if hx is None:
            return None
        if self.torch_state is None:
            parts = dict(hx) if isinstance(hx, State) else None
        else:
            tensors = (hx,) if len(self.torch_state) == 1 else hx
            fits = isinstance(tensors, tuple | list) and len(tensors) == len(self.torch_state)
            parts = dict(zip(self.torch_state, tensors, strict=True)) if fits else None
        if parts is None or not all(isinstance(part, Tensor) for part in parts.values()):
            raise CellError(f"the initial state must be {self._form()}, got {type(hx).__name__}")
        if one and any(part.ndim != 2 for part in parts.values()):
            shapes = ", ".join(str(tuple(part.shape)) for part in parts.values())
            raise CellError(f"for one sequence x (T, I) each part of the state must be (L·D, H), got {shapes}")
        return State(**{name: part.unsqueeze(1) if one else part for name, part in parts.items()})

    def _answer(self, final: State) -> Any:
        order = self.torch_state
        if order is None:
            return final
        return final[order[0]] if len(order) == 1 else tuple(final[part] for part in order)

    def _form(self) -> str:
        if self.torch_state is None:
            return f"a State of {', '.join(self.cell.parts)}"
        return "one tensor h_0" if len(self.torch_state) == 1 else "a tuple (h_0, c_0)"

    def _ready(self, x: Tensor, state: State | None, batch: int | None = None) -> tuple[Tensor, State]:
        """Return x and a state that fit each other and the parameters; `batch` where x is packed."""
        weight = self._value(self._names[0][0][1])
        if x.shape[-1] != self.input_size:
            raise CellError(f"the last dimension of x must be input_size={self.input_size}, got {tuple(x.shape)}")
        if x.device != weight.device:
            raise CellError(f"x is on {x.device} and the parameters on {weight.device}; move one with .to(...)")
        if x.dtype != weight.dtype and not torch._C._is_any_autocast_enabled():
            raise CellError(f"x is {x.dtype} and the parameters are {weight.dtype}; convert one with .to(...)")
        shape = (self.num_layers * self.directions, x.shape[1] if batch is None else batch, self.hidden_size)
        parts = self.cells[0].parts
        if state is None:
            return x, State(**dict.fromkeys(parts, x.new_zeros(shape)))
        if set(state) != set(parts):
            raise CellError(f"the state must have the parts {', '.join(parts)}, got {', '.join(state)}")
        for name in parts:
            given = state[name]
            if given.shape != shape:
                raise CellError(
                    f'part "{name}" of the state must be (L·D, B, H) = {shape}, got {tuple(given.shape)}; B is '
                    f"{shape[1]} in x"
                )
            if given.device != x.device or (given.dtype != x.dtype and not torch._C._is_any_autocast_enabled()):
                raise CellError(
                    f'part "{name}" of the state is {given.dtype} on {given.device}, x is {x.dtype} on {x.device}; '
                    "convert one with .to(...)"
                )
        return x, State(**{part: state[part] for part in parts})

    def _serve(
        self, x: Tensor, state: State, ends: Tensor | None = None, *, damping: float | None = None
    ) -> tuple[Tensor, State]:
        """`ends`: how many sequences run at each step, where x is packed; while compiling, lengths where it is not."""
        if self.cells[0].own_share and not compiling():
            self._require_share_of_one_step(len(x if ends is None or x.ndim == 3 else ends))
        stack = Stack(
            cells=self.cells,
            parameters=tuple({mine: self._value(name) for mine, name in names} for names in self._names),
            x=x,
            state=state,
            directions=self.directions,
            batch_sizes=ends if x.ndim == 2 else None,
            dropout=self.dropout,
            training=self.training,
            damping=damping,
        )
        if compiling():
            from throughtime.engines import opaque

            return opaque.stack(stack, self.engine, self.recompute, ends if x.ndim == 3 else None)
        done = recompute(stack, self.engine) if self.recompute else choose_stack(stack, self.engine).run(stack)
        object.__setattr__(self, "served", done.engine)  # past nn.Module's own, which costs as much as a short step
        return done.output, done.final

    def _require_layer_cells(self, template: Callable[[int, str], Cell]) -> None:
        """Refuse cells that would not be whole as layers: cells of this package are known to be."""
        if not type(self.cell).__module__.startswith("throughtime."):
            require_parameters_declared(self.cell, partial(template, self.input_size, "cpu"))
        if self.cell.own_share:
            refuse_drawing(self.cell, 1)
            self._require_share_of_one_step(1)

    def _require_share_of_one_step(self, steps: int) -> None:
        for cell in self.cells:
            require_share_of_one_step(cell, steps, "in a layer")

    def train(self, mode: bool = True) -> Self:
        """Set training mode, in the cells too: a step may drop out while training."""
        for cell in self.cells:
            cell.train(mode)
        return super().train(mode)

    def _value(self, name: str) -> Tensor:
        # Where a parametrisation or pruning took a parameter's place, it answers as an attribute only.
        value = self._parameters.get(name)
        return value if value is not None else getattr(self, name)

    def _places(self) -> Iterator[tuple[int, int]]:
        return ((layer, direction) for layer in range(self.num_layers) for direction in range(self.directions))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.flatten_parameters()
        return self


def _check_arguments(
    input_size: int,
    hidden_size: int,
    num_layers: int,
    bias: bool,
    batch_first: bool,
    dropout: float,
    bidirectional: bool,
) -> None:
    for name, size in {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers}.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise CellError(f"{name} must be a whole number, at least 1; got {size!r}")
    for name, flag in {"bias": bias, "batch_first": batch_first, "bidirectional": bidirectional}.items():
        if not isinstance(flag, bool):
            raise CellError(f"{name} must be True or False, got {flag!r}; give the cell's options by keyword")
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout <= 1:
        raise CellError(f"dropout must be a probability from 0 to 1, got {dropout!r}")
    if dropout > 0 and num_layers == 1:
        warnings.warn(
            f"dropout={dropout} acts between layers, and num_layers is 1: nothing is dropped", UserWarning, stacklevel=4
        )
