"""What was measured, as frozen typed values with their units; to JSON and npz and back. No torch here.

Norms of gradients are kept as base-10 logarithms, so that a product over thousands of steps stays a number:
−inf is a true zero, NaN is "not measured". Everything above `flow` and `training` sees only these.

Dimensions: T steps, B sequences, H units, S the whole state, L lags.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import types
import typing
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from throughtime.disk import write_whole
from throughtime.errors import InputError

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]

FORMAT = 1  # raised when a field changes its meaning
# What reading and decoding a damaged file may raise; RuntimeError: zip members that are encrypted, or nested too deep.
DAMAGE = (
    *(EOFError, OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)


# -- gradient flow


@dataclass(frozen=True, eq=False)
class LagProfile:
    """What survives of a gradient at each lag: quartiles over steps and sequences of log10 C(t,t−τ) − log10 C(t,t).

    Only pairs with a direct gradient at t (C(t,t) > 0) count.
    """

    lags: Integers  # (L,) τ, steps, ascending from 0
    median: Floats  # (L,) log10; −inf: exactly zero; NaN: not measured
    lower: Floats  # (L,) first quartile
    upper: Floats  # (L,) third quartile
    pairs: Integers  # (L,) how many pairs (t, sequence) stand behind each

    def horizon(self, share: float = 0.01) -> int | None:
        """The largest lag at which the median still is at least `share`; None if nothing was measured."""
        reached = self.lags[self.median >= math.log10(share)]
        return int(reached[-1]) if reached.size else None

    def half_life(self) -> int | None:
        """The first lag at which the median is under 1/2; None if it never is."""
        fallen = self.lags[self.median < math.log10(0.5)]
        return int(fallen[0]) if fallen.size else None

    def longest(self) -> int:
        """The largest lag that was measured; a horizon equal to it is a lower bound."""
        measured = self.lags[~np.isnan(self.median)]
        return int(measured[-1]) if measured.size else 0


@dataclass(frozen=True, eq=False)
class CreditRecord:
    """All-pairs credit of one layer: how much of what step t put out reached the state at k (MEASURES 5)."""

    cell: str
    parts: tuple[str, ...]
    derivative: Literal["boundary", "node"]  # parts held apart, or with the inner path from one part to another
    log10_pairs: Floats  # (T, T, B), (N, T, B) with `sources`: log10 C(t, k); −inf for k > t and zeros, NaN unmeasured
    log10_direct: Floats  # (T, B) log10 ‖δ_t‖
    log10_adjoint: Floats  # (T, B) log10 ‖a_k‖, a_k = Σ_t g(t, k)
    log10_parts: Mapping[str, Floats]  # part -> (T, T, B), the same by part of the state at k
    lags: LagProfile
    dtype: str
    seconds: float
    sources: Integers | None = None  # (N,) the steps t that were measured; None: every step

    @property
    def pairs(self) -> Floats:
        """C(t, k), (T, T, B): norms, 0 for k > t (and where 10**log10 underflows)."""
        return np.asarray(10.0**self.log10_pairs)


@dataclass(frozen=True, eq=False)
class MemoryRecord:
    """What states still hold of each input: R(t, k) = ‖∂z_t/∂x_k‖_F (MEASURES 13)."""

    cell: str
    log10_memory: Floats  # (N, T, B) log10 R(t, k), N steps t; −inf for k > t and true zeros, NaN where not measured
    at: Integers  # (N, B) the steps t, of each sequence; −1: the sequence had ended
    dtype: str
    seconds: float


@dataclass(frozen=True, eq=False)
class GateStats:
    """One gate (or candidate) over a probe batch."""

    mean: Floats  # (T,) over sequences and units, opening 0..1 (a candidate: its own range)
    low: Floats  # (T,) share of units and sequences under 0.1 (a tanh candidate: under −0.9)
    high: Floats  # (T,) share over 0.9
    unit_mean: Floats  # (H,) over steps and sequences


@dataclass(frozen=True, eq=False)
class BoundRecord:
    """Bounds beside what they bound, log10, by lag; medians over steps and sequences (MEASURES 9)."""

    lags: Integers  # (L,)
    gain: Floats  # (L,) log10 ‖P(t, t−τ)‖₂
    steps: Floats  # (L,) log10 Π ‖J_j‖₂
    local: Floats | None  # (L,) log10 Π ‖D(φ'(a_j))‖ ‖W‖; None: the cell has no such bound
    globally: Floats | None  # (L,) log10 (γλ)^τ, λ = ‖W‖₂


@dataclass(frozen=True, eq=False)
class Example:
    """One real sequence, step by step, as a person would read it."""

    steps: tuple[str, ...]  # (T,) the words or characters, or numbers as text
    truth: str
    answer: str  # what the model says
    gates: Mapping[str, Floats]  # gate -> (T,) mean opening
    state: Mapping[str, Floats]  # part -> (T,) root mean square over units
    memory: Floats  # (T,) log10 ‖∂z_T/∂x_k‖_F: what the last state still holds of input k
    blame: Floats  # (T,) log10 ‖dL/dz_k‖


@dataclass(frozen=True, eq=False)
class FlowRecord:
    """How the gradient travelled back through one recurrent layer, on one probe batch, at one moment."""

    cell: str  # the cell's known name
    layer: str  # the layer's name in its model
    moment: Literal["before", "during", "after"]
    update: int  # optimiser steps taken so far
    engine: str
    dtype: str
    seconds: float
    T: int
    B: int
    H: int
    parts: tuple[str, ...]
    derivative: Literal["boundary", "node"]
    loss: float  # of the probe batch
    direct: Floats  # (T,) median over sequences of log10 ‖δ_t‖, the gradient at output t with the others held
    adjoint: Floats  # (T,) median over sequences of log10 ‖dL/dz_k‖, the gradient through time
    lags: LagProfile
    part_lags: Mapping[str, LagProfile]  # by part of the state at k
    blame: Floats | None  # (T, T) median over sequences of log10 C(t, k); rows t, columns k; None: not measured
    bounds: BoundRecord | None
    ports: Mapping[str, Floats]  # port -> (T,) median of log10 ‖a_kᵀ J_k^(port)‖ / ‖a_k‖, what it carries one step back
    step_gain: Floats  # (T,) median over sequences of log10 ‖J_k‖₂
    gates: Mapping[str, GateStats]
    saturation: Mapping[str, float]  # gate or part -> share of units and steps at which its activation is saturated
    examples: tuple[Example, ...] = ()
    left_out: tuple[str, ...] = ()  # what was not measured, and why; sentences

    @property
    def horizon(self) -> int | None:
        """How many steps back 1% of the gradient still reaches."""
        return self.lags.horizon()

    @property
    def half_life(self) -> int | None:
        """The first lag at which less than half of the gradient is left."""
        return self.lags.half_life()


# -- training


@dataclass(frozen=True)
class Update:
    """One optimiser step."""

    update: int  # counted from 1
    epoch: int  # counted from 0
    samples: int  # consumed in this epoch
    loss: float
    grad_norm: float  # global 2-norm before clipping
    clipped: bool
    threshold: float | None  # the clipping threshold in force
    rate: float  # learning rate
    seconds: float


@dataclass(frozen=True)
class Evaluation:
    """The loss and score on held-out data."""

    update: int
    epoch: int
    split: Literal["valid", "test"]
    loss: float
    score: float  # in the task's metric
    best: bool = False  # the best so far on valid


@dataclass(frozen=True)
class Finding:
    """One thing a rule saw, with its evidence and what to do."""

    rule: str
    severity: Literal["good", "note", "warning", "serious"]
    cell: str
    title: str  # one sentence, with the number that matters
    evidence: tuple[str, ...]  # sentences with numbers and where
    advice: str  # what to do
    command: str  # what to type; empty if there is nothing to type
    check: str  # what would prove the advice wrong


@dataclass(frozen=True)
class DataCard:
    """What a model was trained on."""

    name: str
    kind: Literal["classification", "regression", "next"]
    step: str  # what one step is: "word", "pixel", "character", "row"
    tokens: bool
    inputs: int  # vocabulary size, or values a step
    outputs: int
    labels: tuple[str, ...]
    metric: Literal["accuracy", "mse", "nats"]
    baseline: float  # the score of the obvious guess
    baseline_is: str  # the obvious guess, in words
    lag: int | None  # the lag the task is built on, steps; None: not known
    sizes: Mapping[str, int]  # split -> samples
    lengths: tuple[int, int, int]  # shortest, median, longest sequence, steps
    digest: str  # SHA-256 of the data as read
    notes: tuple[str, ...] = ()  # what was dropped, filled or cut, and why

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger score is a better one."""
        return self.metric == "accuracy"


@dataclass(frozen=True)
class Settings:
    """How a model is trained; everything that decides the result beside the data, the cell and the seed."""

    epochs: int = 20
    batch_size: int = 32
    rate: float = 3e-3  # Adam's learning rate, after warm-up
    warmup: float = 0.05  # share of all updates
    schedule: Literal["constant", "cosine"] = "cosine"
    weight_decay: float = 0.0
    clip: float | None = 1.0  # threshold; a percentile for "percentile"; None: no clipping
    clip_by: Literal["norm", "parameter", "value", "always", "percentile", "backward"] = "norm"
    window: int | None = None  # k2: back over so many steps; None: full backpropagation through time
    stride: int | None = None  # k1: an optimiser step every so many steps; None: as window
    patience: int | None = None  # evaluations without improvement before stopping early; None: never
    evaluate_every: int | None = None  # updates; None: once an epoch
    checkpoint_every: int | None = None  # updates; None: with each evaluation
    precision: Literal["no", "bf16", "fp16"] = "no"


@dataclass(frozen=True)
class ModelCard:
    """The model of one run."""

    cell: str  # the cell's known name
    options: Mapping[str, Any]
    layers: int
    hidden: int
    bidirectional: bool
    embedding: int | None  # units; None: the input is numbers
    dropout: float
    readout: Literal["last", "mean", "every"]
    engine: str  # the engine that served
    parameters: int  # how many numbers are learned
    start: Mapping[str, Any] = field(default_factory=dict)  # what was set of the start, beside torch.nn's own draw


@dataclass(frozen=True)
class RunRecord:
    """One trained model, whole: what a report is drawn from."""

    label: str  # how the run is named in its study: the cell's name, as typed
    model: ModelCard
    settings: Settings
    seed: int
    updates: tuple[Update, ...]
    evaluations: tuple[Evaluation, ...]
    flows: tuple[FlowRecord, ...]  # in the order they were measured
    stopped: str  # why training ended, in a sentence
    seconds: float
    test: Evaluation | None = None

    def last_flow(self, moment: str) -> FlowRecord | None:
        """The last measurement of that moment."""
        return next((flow for flow in reversed(self.flows) if flow.moment == moment), None)

    @property
    def clipped_share(self) -> float:
        """The share of updates whose gradient was clipped."""
        return sum(update.clipped for update in self.updates) / max(1, len(self.updates))


@dataclass(frozen=True)
class Study:
    """Runs side by side on the same data, and how to repeat them."""

    title: str
    command: str
    created: str  # ISO 8601, UTC
    versions: Mapping[str, str]
    machine: str
    data: DataCard
    runs: tuple[RunRecord, ...]


# -- to files and back

_Record = TypeVar("_Record")


def encode(value: Any, arrays: dict[str, NDArray[Any]], path: str = "") -> Any:
    """A record as plain JSON values; its arrays go to `arrays` under their path."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [f.name for f in dataclasses.fields(value)]
        return {name: encode(getattr(value, name), arrays, f"{path}/{name}") for name in names}
    if isinstance(value, np.ndarray):
        arrays[path] = value
        return {"$array": path}
    if isinstance(value, Mapping):
        return {str(key): encode(inner, arrays, f"{path}/{key}") for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [encode(inner, arrays, f"{path}/{i}") for i, inner in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}
    return value


def decode(kind: Any, value: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """The other way: plain values back into `kind`. Unknown fields are ignored, so old readers read new files."""
    origin = typing.get_origin(kind)
    if isinstance(value, dict) and "$array" in value:
        return arrays[value["$array"]]
    if isinstance(value, dict) and "$float" in value:
        return float(value["$float"])
    if value is None or kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return decode(next(a for a in typing.get_args(kind) if a is not type(None)), value, arrays)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind)
        known = {f.name for f in dataclasses.fields(kind)} & value.keys()
        return kind(**{name: decode(hints[name], value[name], arrays) for name in known})
    if origin is tuple:
        inner = typing.get_args(kind)
        each = inner[:1] * len(value) if len(inner) == 2 and inner[1] is ... else inner
        return tuple(decode(k, v, arrays) for k, v in zip(each, value, strict=True))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        inner_kind = typing.get_args(kind)[1]
        return {key: decode(inner_kind, inner, arrays) for key, inner in value.items()}
    return float(value) if kind is float else value


def write(record: Any, path: Path) -> None:
    """Write a record to one `.npz` file: its arrays, and the rest as JSON under "record"; whole or not at all.

    Raises InputError if it cannot be written.
    """
    arrays: dict[str, NDArray[Any]] = {}
    text = json.dumps({"format": FORMAT, "kind": type(record).__name__, "record": encode(record, arrays)})
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, record=np.frombuffer(text.encode(), np.uint8), **arrays)
    write_whole(path, content.getvalue())


def read(kind: type[_Record], path: Path) -> _Record:
    """Read a record that `write` wrote.

    Raises InputError if the file is absent, damaged, or holds something else.
    """
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = dict(file)
        whole = json.loads(bytes(arrays.pop("record")))
        if whole["kind"] != kind.__name__ or whole["format"] > FORMAT:
            raise InputError(
                f"{path}: holds a {whole['kind']} of format {whole['format']}, not a {kind.__name__} of format "
                f"{FORMAT} or older; read it with the version of throughtime that wrote it."
            )
        return typing.cast(_Record, decode(kind, whole["record"], arrays))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; is this the folder of a run?") from None
    except DAMAGE as error:
        raise InputError(f"{path}: this record is damaged ({error}); measure again, or restore the file.") from error
