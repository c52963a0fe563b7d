"""How to build and train on a source if nothing else is said; found by trial, each with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from throughtime.cells import make
from throughtime.records import DataCard, Settings
from throughtime.study.plan import Choice, Shape, Trial

CLOCKS = ("forget_bias", "chrono")  # settings of the gate that keeps memory; they pass by a cell that has none
PERCENTILE = 10.0  # of the norms seen: AutoClip's own (Seetharaman et al. 2020)


def settle(choice: Choice, card: DataCard, shape: Mapping[str, Any], settings: Mapping[str, Any]) -> Trial:
    """One cell on a source: what suits the task, and over it what was asked for.

    Raises CellError for options the cell does not have.
    """
    gated = bool(make(choice.name, 1, 1, device="meta", **choice.options).clock)
    usual_shape, usual_settings = _usual(card, gated=gated)
    fewest = min(usual_settings.batch_size, max(1, card.sizes["train"]))
    usual_settings = replace(usual_settings, batch_size=fewest)
    if settings.get("clip_by") == "percentile":
        usual_settings = replace(usual_settings, clip=PERCENTILE)
    if "chrono" in shape:
        usual_shape = replace(usual_shape, forget_bias=None)  # chrono sets that bias itself
    fitting = {name: value for name, value in shape.items() if gated or name not in CLOCKS}
    return Trial(choice, replace(usual_shape, **fitting), replace(usual_settings, **settings))


def _usual(card: DataCard, *, gated: bool) -> tuple[Shape, Settings]:
    """What suits a task. A forget bias of 1 lets a gated cell start with memory (Jozefowicz et al. 2015)."""
    forget_bias = 1.0 if gated else None
    if card.kind == "next":
        return Shape(hidden=128, forget_bias=forget_bias), Settings(epochs=10, batch_size=32, rate=3e-3, patience=3)
    if card.tokens:  # few texts, many words: it overfits from the fourth epoch on, so much is dropped
        return Shape(dropout=0.5, forget_bias=forget_bias), Settings(epochs=8, batch_size=32, rate=3e-3, patience=4)
    if card.lag is not None:  # a rule without noise: nothing to drop, as many samples as one likes
        return Shape(forget_bias=forget_bias), Settings(epochs=13, batch_size=64, rate=1e-2)
    # A cell without gates goes astray at the rate that suits one with gates.
    rate, epochs = (1e-2, 60) if gated else (3e-3, 40)
    return Shape(dropout=0.2, forget_bias=forget_bias), Settings(epochs=epochs, batch_size=16, rate=rate)
