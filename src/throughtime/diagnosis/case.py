"""What a rule looks at: one recurrent layer's flow, with the run and the data it belongs to where they are known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

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
    def strange(self) -> bool:
        """Whether the layer is in a model of somebody's own: there is no command of ours that trains it."""
        place = self.flow.place if self.flow is not None else None
        return bool(self.named) or (place is not None and not place.ours)

    @property
    def cell(self) -> str:
        """How the run is named, or the layer of a model of somebody's own, else the cell."""
        if self.named:
            return self.named
        if self.run is not None:
            return self.run.label
        if self.flow is None:
            return ""
        return self.flow.layer if self.strange else self.flow.cell

    @property
    def subject(self) -> str:
        """The start of a finding's title."""
        if self.layers > 1 and self.flow is not None and not self.strange:
            place = self.flow.place
            return f"{self.cell} ({self.flow.layer if place is None else f'layer {place.layer}'})"
        return self.cell

    @property
    def when(self) -> str:
        """The moment of the flow that is judged, in words."""
        if self.strange:
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
        if self.flow is not None and self.flow.lag is not None:
            return Need(self.flow.lag, known=True)
        if self.data is not None and self.data.lag is not None:
            return Need(self.data.lag, known=True)
        if not self._answers_once():
            return None
        if self.data is not None and not self.strange:
            return Need(max(0, self.data.lengths[1] - 1), known=False)
        if self.flow is None:
            return None
        use = self.flow.use
        if use is not None and bool((use.last >= 0).any()):
            return Need(int(np.median(use.last[use.last >= 0])), known=False)
        return Need(max(0, self.flow.T - 1), known=False)

    def _answers_once(self) -> bool:
        """Whether the loss depends on one step's output of each sequence alone, so that all else comes through time."""
        if self.run is not None:
            return self.run.model.readout == "last"
        if self.flow is None:
            return False
        if self.flow.use is not None:
            return int(self.flow.use.sources.max(initial=0)) == 1
        return sum(math.isfinite(value) for value in self.flow.direct.tolist()) == 1

    @property
    def short(self) -> bool:
        """Whether the gradient does not reach as far back as is needed: judged by each sequence's own last step."""
        need, horizon = self.need, self.horizon
        if need is None or horizon is None:
            return False
        use = self.flow.use if self.flow is not None else None
        if need.known or use is None or int(use.sources.max(initial=0)) != 1:
            return horizon < need.steps and not self.censored
        there = use.horizons >= 0
        return bool(there.any()) and float((use.horizons[there] < use.last[there]).mean()) >= 0.5

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
