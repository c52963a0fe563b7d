"""`throughtime demo`: the main job on real input that is at hand."""

from __future__ import annotations

from throughtime.cli.options import Reading, Running, SettingsOptions, ShapeOptions
from throughtime.cli.session import hold

EXAMPLE = "Example: throughtime demo --out runs/my-first"


def run(running: Running) -> None:
    """Train an Elman net, an LSTM and a GRU on handwritten digits read pixel by pixel, and write a report."""
    hold(
        "digits" if running.resume is None else None,
        None,
        "rnn,lstm,gru",
        Reading(),
        ShapeOptions(),
        SettingsOptions(),
        running,
    )
