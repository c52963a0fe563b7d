"""What a rule looks at: one recurrent layer's flow, with the run and the data it belongs to where they are known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from throughtime.diagnosis.thresholds import LEARNED
from throughtime.records import DataCard, Evaluation, FlowRecord, RunRecord


class Need(NamedTuple):
    """How far back the gradient has to reach."""

    steps: int
    known: bool  # whether the task says so; else it is the way to the first step of a sequence


@dataclass(frozen=True)
class Case:
    """One layer of one run."""

    flow: FlowRecord | None  # the one that is judged: after training, else during, else before
    before: FlowRecord | None  # the untrained layer
    run: RunRecord | None = None
    data: DataCard | None = None
    command: str = ""  # what started the study; empty if that is not known
    layers: int = 1  # of the run
    leads: bool = True  # whether no other layer of the run reaches further back: it speaks for the whole run
    named: str = ""  # a layer of somebody's own model, measured as it is

    @property
    def cell(self) -> str:
        """How the run is named, or the layer of a model of somebody's own, else the cell."""
        if self.named:
            return self.named
        if self.run is not None:
            return self.run.label
        return self.flow.cell if self.flow is not None else ""

    @property
    def subject(self) -> str:
        """The start of a finding's title."""
        if self.layers > 1 and self.flow is not None:
            return f"{self.cell} ({self.flow.layer.replace('recurrent.', 'layer ')})"
        return self.cell

    @property
    def when(self) -> str:
        """The moment of the flow that is judged, in words."""
        if self.named:
            return "here"
        moment = self.flow.moment if self.flow is not None else "after"
        return {"before": "before training", "during": "while training", "after": "after training"}[moment]

    @property
    def horizon(self) -> int | None:
        """How many steps back 1% of the gradient reaches; None if not measured."""
        return self.flow.horizon if self.flow is not None else None

    @property
    def censored(self) -> bool:
        """Whether the horizon is a lower bound: nothing was measured beyond it."""
        return self.flow is not None and self.flow.horizon is not None and self.flow.horizon >= self.flow.lags.longest()

    @property
    def need(self) -> Need | None:
        """How far back it has to reach; None where every step answers for itself and no lag is known."""
        if self.data is not None and self.data.lag is not None:
            return Need(self.data.lag, known=True)
        if not self._answers_once():
            return None
        if self.data is not None:
            return Need(max(0, self.data.lengths[1] - 1), known=False)
        return Need(max(0, self.flow.T - 1), known=False) if self.flow is not None else None

    def _answers_once(self) -> bool:
        """Whether the loss hangs on one step's output alone, so that all else must come through time."""
        if self.run is not None:
            return self.run.model.readout == "last"
        return self.flow is not None and sum(math.isfinite(value) for value in self.flow.direct.tolist()) == 1

    @property
    def result(self) -> Evaluation | None:
        """The score that counts: on test, else the best on valid, else the last."""
        if self.run is None:
            return None
        if self.run.test is not None:
            return self.run.test
        best = tuple(evaluation for evaluation in self.run.evaluations if evaluation.best)
        there = best or self.run.evaluations
        return there[-1] if there else None

    @property
    def gained(self) -> float | None:
        """The share of the way from the obvious guess (0) to a perfect score (1); None if not known."""
        if self.result is None or self.data is None or not math.isfinite(self.result.score):
            return None
        score, guess = self.result.score, self.data.baseline
        if self.data.higher_is_better:
            return (score - guess) / (1.0 - guess) if guess < 1.0 else None
        return 1.0 - score / guess if guess > 0.0 else None

    @property
    def learned(self) -> bool:
        """Whether it clearly learned, so that what looks bad did no great harm."""
        return self.gained is not None and self.gained >= LEARNED
