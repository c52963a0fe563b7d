"""The contract: a cell is its step.

A subclass names what the state holds (`parts`), each place where the step reads the previous state (`reads`,
the ports), the row blocks of its weights (`inputs`, `recurrent`), and writes its equations in `step`. The
unrolled sequence, the engines, the Jacobians, the paths and the reports are all derived from these.

Dimensions: T steps, B sequences, I inputs, H units, S = len(parts) · H the whole state.

To write a cell, name these and write the equations. Each reading of the previous state gets a port of its own,
and the one that carries the state on by itself (no weights in between) is always called "carousel":

>>> import torch
>>> import throughtime as tt
>>> from throughtime.cells import Cell, Gates, State
>>> class Leaky(Cell):  # with `class Leaky(Cell, name="leaky")` it is known to tt.cells.make and to layers
...     '''α_t = σ(U_α x_t + b_α), h_t = (1 − α_t) ⊙ h_{t-1} + α_t ⊙ tanh(U x_t + W h_{t-1} + b).'''
...
...     parts = ("h",)
...     reads = {"carousel": "h", "candidate": "h"}
...     inputs = ("leak", "candidate")  # U_α and U are the row blocks of weight_ih
...     recurrent = ("candidate",)  # W is the one row block of weight_hh
...
...     def step(self, u, read, W):
...         a = torch.sigmoid(u.leak)
...         c = torch.tanh(u.candidate + W.candidate(read.candidate))
...         return State(h=(1 - a) * read.carousel + a * c), Gates(leak=a)
>>> result = tt.unroll(Leaky(input_size=3, hidden_size=4), torch.zeros(7, 2, 3))
>>> result.output.shape, result.gates["leak"].shape
(torch.Size([7, 2, 4]), torch.Size([7, 2, 4]))

A cell inside this package is one file in this folder, found by being there.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from throughtime.cells.contract import METHODS, require_free_names, require_names, require_step_result, require_tensor
from throughtime.cells.options import check
from throughtime.cells.share_check import require_share_of_one_step
from throughtime.errors import CellError

Parameters = Mapping[str, Tensor]


class Named(Mapping[str, Tensor]):
    """An immutable, ordered set of named tensors: `u.forget` and `u["forget"]` are the same tensor."""

    __slots__ = ("_tensors",)
    _tensors: dict[str, Tensor]

    def __init__(self, /, **tensors: Tensor) -> None:
        if not METHODS.isdisjoint(tensors):
            require_names(f"name of {type(self).__name__}", tensors, type(self).__name__)
        object.__setattr__(self, "_tensors", tensors)

    def __getattr__(self, name: str) -> Tensor:
        if name == "_tensors":  # not set yet: without this, looking for it would look for it
            raise AttributeError(name)
        try:
            return self._tensors[name]
        except KeyError:
            raise AttributeError(f"no {name!r} here; there is {', '.join(self._tensors) or 'nothing'}") from None

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable; make a new one instead of setting {name!r}")

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={tuple(t.shape)}" for name, t in self._tensors.items())
        return f"{type(self).__name__}({inside})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (type(self), self._tensors)  # copying sets attributes otherwise, which this refuses

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """The same names, each tensor passed through `function`."""
        return type(self)(**{name: function(tensor) for name, tensor in self._tensors.items()})


def _made(kind: type[Named], tensors: dict[str, Tensor]) -> Named:
    return kind(**tensors)


class Share(Named):
    """u: the input's share of each pre-activation, `U x + b`; it never looks at the state."""


class Read(Named):
    """What each port reads of the previous state."""


class State(Named):
    """The state by part; the last part is what the layer puts out."""


class Gates(Named):
    """What a person wants to watch opening and closing, by name."""


def _register(kind: type[Named]) -> None:
    """Let torch's tree functions (torch.func, vmap, compile) look into this kind."""
    pytree.register_pytree_node(
        kind,
        lambda named: (list(named.values()), tuple(named)),
        lambda tensors, names: kind(**dict(zip(names, tensors, strict=True))),
    )


for _kind in (Share, Read, State, Gates):
    _register(_kind)


class Linear(NamedTuple):
    """`W h + b` for one row block of the recurrent weights."""

    weight: Tensor  # (H, H)
    bias: Tensor | None  # (H,)

    def __call__(self, h: Tensor) -> Tensor:
        """Map (..., H) to (..., H)."""
        return F.linear(h, self.weight, self.bias)


class Weights:
    """W: the recurrent maps by block (`W.forget(h)`), and further parameters by name (`W["weight_ch"]`).

    Iterating gives the names of the blocks.
    """

    __slots__ = ("_maps", "_parameters")

    def __init__(self, maps: dict[str, Linear], parameters: Parameters) -> None:
        self._maps = maps
        self._parameters = parameters

    def __getattr__(self, block: str) -> Linear:
        if block == "_maps":  # not set yet, as torch.compile may find it
            raise AttributeError(block)
        try:
            return self._maps[block]
        except KeyError:
            raise AttributeError(f"no recurrent block {block!r}; there is {', '.join(self._maps)}") from None

    def __getitem__(self, name: str) -> Tensor:
        return self._parameters[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._maps)


_KNOWN: dict[str, type[Cell]] = {}


class Cell(nn.Module, ABC):
    """One step of a recurrence, and its parameters in torch.nn's layout.

    Parameters: `weight_ih` (len(inputs)·H, I), `weight_hh` (len(recurrent)·H, H), `bias_ih` and `bias_hh` of
    as many rows (less the `unbiased` blocks), and what `extra` names. A subclass whose options change its ports or
    blocks sets the attributes of the instance before it calls `super().__init__`.

    `class Mine(Cell, name="mine")` makes the cell known, in the same process, wherever a cell is asked for by name.
    """

    parts: tuple[str, ...] = ("h",)  # what the state holds, H units each; the last part is the output
    reads: Mapping[str, str]  # port -> the part it reads
    inputs: tuple[str, ...]  # row blocks of weight_ih: `u.<block>`
    recurrent: tuple[str, ...] | None = None  # row blocks of weight_hh: `W.<block>(h)`; as inputs if None
    unbiased: tuple[str, ...] = ()  # those of them without rows in bias_hh: where several add up to one sum
    clock: Mapping[str, int] = {}  # blocks whose bias sets how long memory lasts: +1 more bias, longer
    steepest: float | None = None  # γ = sup |φ'|, where h_t = φ(W h_{t-1} + …) is the whole step; else None
    also: ClassVar[Mapping[str, str]] = {}  # other words for gates and parts, as some texts have them
    name: ClassVar[str] = ""

    def __init_subclass__(cls, *, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if name is not None:
            if name in _KNOWN and _KNOWN[name].__qualname__ != cls.__qualname__:
                raise CellError(
                    f'a cell named "{name}" exists already ({_KNOWN[name].__qualname__}); choose another name'
                )
            cls.name = name
            _KNOWN[name] = cls

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if input_size < 1 or hidden_size < 1:
            raise CellError(f"sizes must be at least 1, got input_size={input_size}, hidden_size={hidden_size}")
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        self.options = dict(options or {})  # what was chosen, for records; the subclass passes its own on
        self._check_names()
        if self.recurrent is None:
            self.recurrent = self.inputs
        require_free_names(self, self.extra(), self._usual_shapes(), type(self).__name__)
        for name, shape in self.shapes().items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self.reset_parameters()

    # -- what a subclass writes

    @abstractmethod
    def step(self, u: Share, read: Read, W: Weights) -> tuple[State, Gates]:
        """One step: from the input's share and what the ports read to the new state and the gates.

        Pure: it uses no other tensors than `u` (each (B, H)), `read` (each (B, H)) and `W`, so that it can be
        traced, differentiated and given other parameters. It must not look at the step's number,
        nor let the sequences of a batch hear each other.
        """

    def extra(self) -> dict[str, tuple[int, ...]]:
        """Shapes of parameters beside the weights and biases, by name; read in `step` as `W["name"]`."""
        return {}

    # What follows is for cells whose whole step is h_t = φ(W h_{t-1} + …) and gives the bounds of such a net: with
    # J_t = D(φ'(a_t)) W, ‖J_t‖ ≤ ‖D(φ'(a_t))‖ ‖W‖ ≤ γ ‖W‖. A cell has all three (`steepest` too) or none.

    def slopes(self, u: Share, read: Read, W: Weights) -> Tensor | None:
        """φ'(a_t), (B, H), from what `step` gets; None where no one pre-activation makes the state."""
        return None

    def matrix(self, u: Share, W: Weights) -> Tensor | None:
        """What multiplies h_{t-1} in that pre-activation: (H, H), or (B, H, H) where it depends on the input."""
        return None

    # -- what follows from it

    @property
    def title(self) -> str:
        """What records and errors call it: the name it is known by, else that of its class."""
        return self.name or type(self).__name__

    @property
    def own_share(self) -> bool:
        """Whether the input's share is other than a product with weight_ih."""
        return type(self).share is not Cell.share or "share" in self.__dict__

    @property
    def state_size(self) -> int:
        """S, the size of the whole state."""
        return len(self.parts) * self.hidden_size

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every parameter's shape by name, in torch.nn's order."""
        return self._usual_shapes() | self.extra()

    def _usual_shapes(self) -> dict[str, tuple[int, ...]]:
        assert self.recurrent is not None
        H, I = self.hidden_size, self.input_size  # noqa: E741
        rows, recurrent_rows = len(self.inputs) * H, len(self.recurrent) * H
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, I)}
        if recurrent_rows:
            shapes["weight_hh"] = (recurrent_rows, H)
        if self.bias:
            shapes["bias_ih"] = (rows,)
            if recurrent_rows > len(self.unbiased) * H:
                shapes["bias_hh"] = (recurrent_rows - len(self.unbiased) * H,)
        return shapes

    def spread(self, parameter: str) -> float:
        """How far from 0 a parameter may start: 1/√H, as in torch.nn."""
        return 1.0 / math.sqrt(self.hidden_size)

    def reset_parameters(
        self, parameters: Parameters | None = None, *, generator: torch.Generator | None = None
    ) -> None:
        """Draw every parameter (the cell's own, or those given, in place) from U(−spread, spread)."""
        p = self.values() if parameters is None else parameters
        for name in self.shapes():
            nn.init.uniform_(p[name], -self.spread(name), self.spread(name), generator=generator)

    def squares(self, parameters: Parameters) -> tuple[Tensor, ...]:
        """The recurrent matrices among these parameters, (H, H) each, as views."""
        return parameters["weight_hh"].chunk(len(self.recurrent)) if self.recurrent else ()

    def values(self) -> dict[str, Tensor]:
        """The cell's own parameters by name, where no others are given."""
        return dict(self.named_parameters())

    def share(self, x: Tensor, parameters: Parameters | None = None) -> Share:
        """The input's share of each pre-activation for x (..., I), all steps at once: each (..., H)."""
        p = self.values() if parameters is None else parameters
        together = F.linear(x, p["weight_ih"], p.get("bias_ih"))
        return Share(**dict(zip(self.inputs, together.chunk(len(self.inputs), dim=-1), strict=True)))

    def weights(self, parameters: Parameters | None = None) -> Weights:
        """The recurrent maps, bound once and used for every step of a sequence."""
        assert self.recurrent is not None
        p = self.values() if parameters is None else parameters
        if not self.recurrent:
            return Weights({}, p)
        biased = [block for block in self.recurrent if block not in self.unbiased]
        bias = p.get("bias_hh")
        biases = dict(zip(biased, bias.chunk(len(biased)), strict=True)) if bias is not None else {}
        blocks = zip(self.recurrent, p["weight_hh"].chunk(len(self.recurrent)), strict=True)
        return Weights({block: Linear(weight, biases.get(block)) for block, weight in blocks}, p)

    def advance(self, u: Share, state: State, W: Weights) -> tuple[State, Gates]:
        """One step, every port reading its part of `state`."""
        result = self.step(u, Read(**{port: state[part] for port, part in self.reads.items()}), W)
        require_step_result(self, result, State, Gates)
        return result

    def zero_state(self, batch: int, like: Tensor) -> State:
        """The state before the first input: zeros (B, H) for each part, on the device and dtype of `like`."""
        return State(**{part: like.new_zeros(batch, self.hidden_size) for part in self.parts})

    def pack(self, state: State) -> Tensor:
        """The parts side by side: (..., S)."""
        return torch.cat([state[part] for part in self.parts], dim=-1)

    def unpack(self, z: Tensor) -> State:
        """The parts of z (..., S)."""
        return State(**dict(zip(self.parts, z.chunk(len(self.parts), dim=-1), strict=True)))

    def forward(self, x: Tensor, state: State | None = None) -> State:
        """One step on x (B, I), for a loop of one's own; `tt.unroll` runs a whole sequence.

        Raises CellError if x is no tensor, or if the cell's share looks along time.
        """
        require_tensor(x, "x")
        require_share_of_one_step(self, 1, "one step at a time")
        state = self.zero_state(x.shape[0], x) if state is None else state
        return self.advance(self.share(x), state, self.weights())[0]

    def _check_names(self) -> None:
        for attribute in ("parts", "reads", "inputs", "recurrent"):
            if isinstance(getattr(self, attribute, ""), str):  # a forgotten comma makes a string of a tuple
                example = '{"carousel": "h"}' if attribute == "reads" else '("first",)'
                raise CellError(f"{type(self).__name__} must name its {attribute}, as in {attribute} = {example}")
        require_names("part of the state", self.parts, type(self).__name__)
        require_names("port", self.reads, type(self).__name__)
        require_names("block", self.inputs, type(self).__name__)
        require_names("block", self.recurrent or (), type(self).__name__)
        unknown = {port: part for port, part in self.reads.items() if part not in self.parts}
        if unknown:
            raise CellError(
                f"{type(self).__name__}: port {next(iter(unknown))!r} reads part {next(iter(unknown.values()))!r}, "
                f"which the state does not have; its parts are {', '.join(self.parts)}"
            )

    def extra_repr(self) -> str:
        """Sizes and options, as torch.nn's modules print them."""
        options = "".join(f", {key}={value!r}" for key, value in self.options.items())
        return f"{self.input_size}, {self.hidden_size}{options}"


def known() -> tuple[str, ...]:
    """The names that `make` and the command line accept, in alphabetical order."""
    return tuple(sorted(_KNOWN))


def find(name: str) -> type[Cell]:
    """The class of a known cell.

    Raises CellError for a name that is not known.
    """
    asked: object = name
    if isinstance(asked, type) and issubclass(asked, Cell):
        called = f'"{asked.name}"' if asked.name else f'"mine", after class {asked.__name__}(Cell, name="mine")'
        raise CellError(f"a cell is asked for by its name, not by its class {asked.__name__}; give {called}")
    try:
        return _KNOWN[name]
    except (KeyError, TypeError):
        raise CellError(
            f'no cell is named "{name}"; there is {", ".join(known())}, and a cell of your own once its class is made '
            f'in the same process, as in class Mine(Cell, name="{name}")'
        ) from None


def make(name: str, input_size: int, hidden_size: int, **options: Any) -> Cell:
    """A known cell by name, with its options (and bias, device, dtype).

    Raises CellError for an unknown name or an option the cell does not have.
    """
    cls = find(name)
    check(name, cls, options)
    return cls(input_size, hidden_size, **options)
