"""Which layer a record is of, and how a training step used it: facts, so that nobody has to read them out of names.

Dimensions: n sequences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from throughtime.records.arrays import Integers


@dataclass(frozen=True)
class MemoryGate:
    """A gate whose opening is memory, and the rows of the bias that open it."""

    gate: str
    sign: int  # +1: more bias, longer memory; −1: shorter
    parameter: str  # as its module names it; empty: it has no bias
    rows: tuple[int, int]  # from, to


@dataclass(frozen=True)
class Place:
    """One direction of one layer in a model."""

    module: str  # the module's name in the model; empty: it is the model
    kind: str  # its class
    layer: int = 0  # of a stack
    direction: int = 0  # 1: it reads from the end
    run: int = 1  # which of several runs of steps through its weights
    suffix: str = ""  # of its parameters' names: _l0, _l1_reverse
    ours: bool = False  # a layer of a net that this package built and trained
    memory: tuple[MemoryGate, ...] = ()
    rectifier: bool = False  # its activation is a relu, which is off about half of the time


@dataclass(frozen=True, eq=False)
class Use:
    """How the sequences that were measured were read, and where the loss looked."""

    start: Literal["zeros", "state", "detached", "followed"]  # the first state; "detached": an earlier call's, cut off
    cuts: Integers  # steps before which the loop detached the state, ascending
    lengths: Integers  # (n,)
    sources: Integers  # (n,) steps with a gradient from outside
    last: Integers  # (n,) the last of them; −1: none
    horizons: Integers  # (n,) how far back from there 1% of its gradient reaches; −1: not measured
    padded: Integers  # (n,) steps at the end that read one and the same input
    batch: int  # sequences in the call
    wrong_end: tuple[str, ...] = ()  # directions of this layer whose output is read at the first step they make alone
    answers: tuple[int, int] = (0, 0)  # of how many of the measured sequences the loss depends, and how many they are


@dataclass(frozen=True)
class NonFinite:
    """The first place in a training step where a layer met NaN or infinity."""

    layer: str
    update: int
    way: Literal["forward", "backward"]  # in what it put out; in the gradient that came back to that, or to its weights
    call: int  # of the step, from 1
    sequence: int | None  # None: not known
    step: int | None
    input: bool = False  # whether its input was not finite already
    weights: bool = False  # whether its weights were not

    @property
    def sentence(self) -> str:
        """What happened where."""
        where = "" if self.step is None else f" at step {self.step}"
        where += "" if self.sequence is None else f" of sequence {self.sequence}"
        if self.way == "forward":
            why = ", whose input was not finite there already" if self.input else ""
            why = ", whose weights are not finite" if self.weights else why
            return f"{self.layer} puts out NaN or infinity{where}, forward, in training step {self.update}{why}."
        return (
            f"the gradient that comes back to {self.layer} is NaN or infinite{where}, backward, in training step "
            f"{self.update}, although what it put out is finite."
        )
