"""Numbers as people read them."""

from __future__ import annotations

import math
from datetime import datetime

from throughtime.records import DataCard, LagProfile
from throughtime.view.markup import Html, text

MINUS = "−"
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
THIN = "\u202f"


def plain(value: float, digits: int = 3) -> str:
    """A number with `digits` that matter: 0.0123, 1 250, 3.1e−9."""
    if math.isnan(value):
        return "not measured"
    if math.isinf(value):
        return "infinite" if value > 0 else f"{MINUS}infinite"
    size = abs(value)
    if size and (size < 1e-4 or size >= 1e7):
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", MINUS)
    if size >= 10**digits:
        return f"{value:,.0f}".replace(",", THIN).replace("-", MINUS)
    return f"{float(f'{value:.{digits}g}'):.{digits + 4}f}".rstrip("0").rstrip(".").replace("-", MINUS)


def count(value: int) -> str:
    """A whole number in groups of three."""
    return f"{value:,}".replace(",", THIN) if abs(value) >= 10_000 else str(value)


def some(value: int, one: str, many: str | None = None) -> str:
    """So many of something: 1 step, 12 steps."""
    return f"{count(value)} {one if value == 1 else many or one + 's'}"


def percent(share: float) -> str:
    """A share of 1: 97.2%, 45%, 0.4%, under 0.1%."""
    if not math.isfinite(share):
        return plain(share)
    if 0 < share < 0.001:
        return "under 0.1%"
    if 0.999 < share < 1:
        return "over 99.9%"
    return f"{100 * share:.1f}".removesuffix(".0") + "%"


def power(log10: float) -> Html:
    """A number given by its base-10 logarithm: 0.31, 10^−12.3, exactly 0, not measured."""
    if math.isnan(log10):
        return Html("not measured")
    if math.isinf(log10):
        return Html("exactly 0" if log10 < 0 else "infinite")
    if -3 < log10 < 4:
        return text("{}", plain(10**log10, 2))
    return text("10<sup>{}</sup>", f"{log10:.1f}".replace("-", MINUS))


def left(log10: float) -> Html:
    """A share of a gradient that is left, given by its logarithm: 12%, 10^−12.3 of it, nothing."""
    if -4 < log10 < 1:
        return text("{}", percent(10**log10) if log10 > -3 else f"{100 * 10**log10:.2g}%")
    return power(log10)


def logarithm(log10: float) -> str:
    """A logarithm in a table: −12.31; nothing measured is a dash, an exact zero is said."""
    if math.isnan(log10):
        return "–"
    if math.isinf(log10):
        return "exactly 0" if log10 < 0 else "infinite"
    return f"{log10:.2f}".replace("-", MINUS)


def duration(seconds: float) -> str:
    """45 s, 3 min 20 s, 2 h 5 min."""
    if not math.isfinite(seconds):
        return "not measured"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def moment(iso: str) -> str:
    """A time as people write it: 21 November 2026, 04:36 UTC; as it stands where it is none."""
    try:
        when = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    zone = f" {when.tzname()}" if when.tzname() else ""
    return f"{when.day} {MONTHS[when.month - 1]} {when.year}, {when:%H:%M}{zone}"


def censored(lags: LagProfile) -> bool:
    """Whether the horizon is only a lower bound: the gradient was still there at the longest lag measured."""
    horizon = lags.horizon()
    return horizon is not None and horizon == lags.longest()


def horizon(lags: LagProfile) -> str:
    """How many steps back 1% still reaches: 12, at least 63, not measured."""
    reached = lags.horizon()
    if reached is None:
        return "not measured"
    return f"at least {count(reached)}" if censored(lags) else count(reached)


def half_life(lags: LagProfile) -> str:
    """The lag at which less than half is left: 4, over 63, not measured."""
    if lags.horizon() is None:
        return "not measured"
    fallen = lags.half_life()
    return f"over {count(lags.longest())}" if fallen is None else count(fallen)


def decay(lags: LagProfile) -> str:
    """The steps in which the gradient halves behind the first step back: 3.4; – where it does not fade."""
    steps = lags.decay()
    return "–" if steps is None else f"{steps:.3g}"


def score(data: DataCard | None, value: float) -> str:
    """A score in its metric: 97.2%, 0.0123, 1.32 nats."""
    if data is not None and data.metric == "accuracy":
        return f"{100 * value:.1f}%" if math.isfinite(value) else plain(value)
    return plain(value) + (" nats" if data is not None and data.metric == "nats" and math.isfinite(value) else "")
