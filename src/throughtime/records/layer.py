"""What is measured of one recurrent layer, and all of it together.

Dimensions: T steps, B sequences, H units, S the whole state, L lags.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from throughtime.records.arrays import Count, Duration, Floats, Integers
from throughtime.records.credit import LagProfile
from throughtime.records.parameters import ParameterCredit
from throughtime.records.paths import CarouselRecord, PathRecord
from throughtime.records.place import MemoryGate, NonFinite, Place, Use
from throughtime.records.spectrum import LyapunovRecord, SingularRecord


@dataclass(frozen=True, eq=False)
class MemoryRecord:
    """What states still hold of each input: R(t, k) = ‖∂z_t/∂x_k‖_F."""

    cell: str
    log10_memory: Annotated[
        Floats, "N T B"
    ]  # (N, T, B) log10 R(t, k), N steps t; −inf for k > t and true zeros, NaN where not measured
    at: Annotated[Integers, "N B"]  # (N, B) the steps t, of each sequence; −1: the sequence had ended
    dtype: str
    seconds: Duration


@dataclass(frozen=True, eq=False)
class GateStats:
    """One gate (or candidate) over a probe batch."""

    mean: Annotated[Floats, "T"]  # (T,) over sequences and units, opening 0..1 (a candidate: its own range)
    low: Annotated[Floats, "T"]  # (T,) share of units and sequences under 0.1 (a tanh candidate: under −0.9)
    high: Annotated[Floats, "T"]  # (T,) share over 0.9
    unit_mean: Annotated[Floats, "H"]  # (H,) over steps and sequences


@dataclass(frozen=True, eq=False)
class BoundRecord:
    """Bounds beside what they bound, log10, by lag; medians over sequences, from the last step of each back."""

    lags: Annotated[Integers, "L"]  # (L,)
    gain: Annotated[Floats, "L"]  # (L,) log10 ‖P(t, t−τ)‖₂
    steps: Annotated[Floats, "L"]  # (L,) log10 Π ‖J_j‖₂
    local: Annotated[Floats, "L"] | None  # (L,) log10 Π ‖D(φ'(a_j))‖ ‖W‖; None: the cell has no such bound
    globally: Annotated[Floats, "L"] | None  # (L,) log10 (γλ)^τ, λ = ‖W‖₂


@dataclass(frozen=True, eq=False)
class Example:
    """One real sequence, step by step, as a person would read it."""

    steps: Annotated[tuple[str, ...], "K"]  # (T,) the words or characters, or numbers as text
    truth: str
    answer: str  # what the model says
    gates: Mapping[str, Annotated[Floats, "K"]]  # gate -> (T,) mean opening
    state: Mapping[str, Annotated[Floats, "K"]]  # part -> (T,) root mean square over units
    memory: Annotated[Floats, "K"]  # (T,) log10 ‖∂z_T/∂x_k‖_F: what the last state still holds of input k
    blame: Annotated[Floats, "K"]  # (T,) log10 ‖dL/dz_k‖


@dataclass(frozen=True, eq=False)
class FlowRecord:
    """How the gradient travelled back through one recurrent layer, on one probe batch, at one moment."""

    cell: str  # the cell's known name
    layer: str  # the layer's name in its model
    moment: Literal["before", "during", "after"]
    update: Count  # optimiser steps taken so far
    engine: str
    dtype: str
    seconds: Duration
    T: Annotated[Count, "T"]
    B: Annotated[Count, "B"]
    H: Annotated[Count, "H"]
    parts: tuple[str, ...]
    derivative: Literal["boundary", "node"]
    loss: float  # of the probe batch; NaN: not known
    direct: Annotated[
        Floats, "T"
    ]  # (T,) median over sequences of log10 ‖δ_t‖, the gradient at output t with the others held
    adjoint: Annotated[Floats, "T"]  # (T,) median over sequences of log10 ‖dL/dz_k‖, the gradient through time
    lags: LagProfile
    part_lags: Mapping[str, LagProfile]  # by part of the state at k
    blame: (
        Annotated[Floats, "T T"] | None
    )  # (T, T) median over sequences of log10 C(t, k); rows t, columns k; None: not measured
    bounds: BoundRecord | None
    ports: Mapping[
        str, Annotated[Floats, "T"]
    ]  # port -> (T,) median of log10 ‖a_kᵀ J_k^(port)‖ / ‖a_k‖, what it carries one step back
    step_gain: Annotated[Floats, "T"]  # (T,) median over sequences of log10 ‖J_k‖₂; NaN: not measured
    gates: Mapping[str, GateStats]
    saturation: Mapping[str, float]  # gate or part -> share of units and steps at which its activation is saturated
    # What a thorough measurement adds; None: not measured, or not defined for this cell (then `left_out` says so).
    parameters: ParameterCredit | None = None
    paths: PathRecord | None = None
    carousel: CarouselRecord | None = None
    memory: LagProfile | None = None  # log10 R(t, t−τ) − log10 R(t, t), t the last step of each sequence
    singular: SingularRecord | None = None
    lyapunov: LyapunovRecord | None = None
    examples: tuple[Example, ...] = ()
    left_out: tuple[str, ...] = ()  # what was not measured, and why; sentences
    place: Place | None = None  # None: not known (an older record, or one made by hand)
    use: Use | None = None
    non_finite: NonFinite | None = None  # where its layer met NaN or infinity in the same step, in any sequence
    lag: int | None = None  # the lag that a person said is needed
    before: Count = 0  # steps of the sequences that lie before the first one that was measured

    @property
    def memory_gates(self) -> tuple[MemoryGate, ...]:
        """The gates whose opening is memory."""
        return () if self.place is None else self.place.memory

    @property
    def horizon(self) -> int | None:
        """How many steps back 1% of the gradient still reaches."""
        return self.lags.horizon()

    @property
    def half_life(self) -> int | None:
        """The first lag at which less than half of the gradient is left."""
        return self.lags.half_life()

    @property
    def decay(self) -> float | None:
        """Steps in which a gradient halves, behind the first step back; None: it does not, or nothing is left there."""
        return self.lags.decay()
