"""What training leaves behind, and what a report is drawn from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from throughtime.records.arrays import Count, Duration, Finite, Seed
from throughtime.records.layer import FlowRecord
from throughtime.records.place import NonFinite


@dataclass(frozen=True)
class Update:
    """One optimiser step."""

    update: Count  # counted from 1
    epoch: Count  # counted from 0
    samples: Count  # consumed in this epoch
    loss: float
    grad_norm: float  # global 2-norm before clipping
    clipped: bool
    threshold: float | None  # the clipping threshold in force
    rate: Finite  # learning rate
    seconds: Duration


@dataclass(frozen=True)
class Evaluation:
    """The loss and score on held-out data."""

    update: Count
    epoch: Count
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
    inputs: Count  # vocabulary size, or values a step
    outputs: Count
    labels: tuple[str, ...]
    metric: Literal["accuracy", "mse", "nats"]
    baseline: float  # the score of the obvious guess; NaN: not known, as of somebody's own model
    baseline_is: str  # the obvious guess, in words
    lag: Count | None  # the lag the task is built on, steps; None: not known
    sizes: Mapping[str, Count]  # split -> samples
    lengths: tuple[Count, Count, Count]  # shortest, median, longest sequence, steps
    digest: str  # SHA-256 of the data as read
    notes: tuple[str, ...] = ()  # what was dropped, filled or cut, and why

    def __post_init__(self) -> None:
        if math.isinf(self.baseline):
            raise ValueError(f"the baseline is a finite number, not {self.baseline:g}")
        if self.metric == "accuracy" and (self.baseline < 0 or self.baseline > 1):
            raise ValueError(f"the baseline of an accuracy is a share from 0 to 1, not {self.baseline:g}")

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger score is a better one."""
        return self.metric == "accuracy"


@dataclass(frozen=True)
class Settings:
    """How a model is trained; everything that decides the result beside the data, the cell and the seed."""

    epochs: Count = 20
    batch_size: Count = 32
    rate: Finite = 3e-3  # Adam's learning rate, after warm-up
    warmup: Finite = 0.05  # share of all updates
    schedule: Literal["constant", "cosine"] = "cosine"
    weight_decay: Finite = 0.0
    clip: Finite | None = 1.0  # threshold; a percentile for "percentile"; None: no clipping
    clip_by: Literal["norm", "parameter", "value", "always", "percentile", "backward"] = "norm"
    window: Count | None = None  # k2: back over so many steps; None: full backpropagation through time
    stride: Count | None = None  # k1: an optimiser step every so many steps; None: as window
    patience: Count | None = None  # evaluations without improvement before stopping early; None: never
    evaluate_every: Count | None = None  # updates; None: once an epoch
    checkpoint_every: Count | None = None  # updates; None: with each evaluation
    precision: Literal["no", "bf16", "fp16"] = "no"


@dataclass(frozen=True)
class ModelCard:
    """The model of one run."""

    cell: str  # the cell's known name
    options: Mapping[str, Any]
    layers: Count
    hidden: Count
    bidirectional: bool
    embedding: Count | None  # units; None: the input is numbers
    dropout: Finite
    readout: Literal["last", "mean", "every"]
    engine: str  # the engine that served
    parameters: Count  # how many numbers are learned
    start: Mapping[str, Any] = field(default_factory=dict)  # what was set of the start, beside torch.nn's own draw


@dataclass(frozen=True)
class RunRecord:
    """One trained model, whole: what a report is drawn from."""

    label: str  # how the run is named in its study: the cell's name, as typed
    model: ModelCard
    settings: Settings
    seed: Seed
    updates: tuple[Update, ...]
    evaluations: tuple[Evaluation, ...]
    flows: tuple[FlowRecord, ...]  # in the order they were measured
    stopped: str  # why training ended, in a sentence
    seconds: Duration
    test: Evaluation | None = None
    notes: tuple[str, ...] = ()  # what of its records is lost; sentences

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


@dataclass(frozen=True)
class Watched:
    """What a watch saw last: every layer of a model in one training step, and whatever was not finite since."""

    flows: tuple[FlowRecord, ...]
    non_finite: tuple[NonFinite, ...] = ()
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measurement:
    """The recurrent layers of somebody's own model, each measured once on one batch."""

    title: str
    command: str
    created: str  # ISO 8601, UTC
    versions: Mapping[str, str]
    machine: str
    model: str  # its class, and where it comes from
    data: str  # what it was measured on, in a sentence
    flows: tuple[FlowRecord, ...]  # one for each layer and direction
    left_out: tuple[str, ...] = ()  # layers that could not be measured, and why; sentences
    loss: str = ""  # its value and how it was taken, in words
    card: DataCard | None = None
    notes: tuple[str, ...] = ()  # what to know of how the model was called; sentences
