"""Reach as the table and the progress line tell it."""

import numpy as np

from tests.view import studies
from throughtime.cli.screen import half_life_text, horizon_text
from throughtime.records import LagProfile


class Seen:
    """Stands in for a flow record: shares of the gradient left at lags 0, 1, 2, …"""

    def __init__(self, *left):
        share = np.log10(left)
        self.lags = LagProfile(np.arange(len(left)), share, share, share, np.ones(len(left), int))
        self.horizon, self.half_life = self.lags.horizon(), self.lags.half_life()


def test_only_what_the_measure_cut_short_is_a_bound():
    assert (horizon_text(Seen(1, 0.6, 0.2)), half_life_text(Seen(1, 0.6, 0.2))) == ("≥ 2", "2")
    assert (horizon_text(Seen(1, 0.9, 0.6)), half_life_text(Seen(1, 0.9, 0.6))) == ("≥ 2", "> 2")
    assert (horizon_text(Seen(1, 0.4, 0.001)), half_life_text(Seen(1, 0.4, 0.001))) == ("1", "1")


def test_what_was_not_measured_is_a_dash():
    unmeasured = studies.unmeasured().runs[0].last_flow("after")
    assert (horizon_text(unmeasured), half_life_text(unmeasured)) == ("–", "–")
    assert (horizon_text(None), half_life_text(None)) == ("–", "–")
