"""What a person may ask of `load`, in one value, and which of it fits which source."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Literal

from throughtime.errors import InputError

Gaps = Literal["refuse", "previous"]
Decimal = Literal["point", "comma"]


@dataclass(frozen=True)
class Options:
    """The arguments of `load`; None (or False) where nothing was asked for."""

    seed: int = 0
    text: str | None = None
    label: str | None = None
    target: str | tuple[str, ...] | None = None
    series: str | None = None
    time: str | None = None
    date_format: str | None = None
    decimal: Decimal | None = None
    header: bool | None = None
    drop: str | tuple[str, ...] | None = None
    gaps: Gaps | None = None
    max_length: int | None = None
    vocabulary: int | None = None
    minimum_count: int | None = None
    lag: int | None = None
    samples: int | None = None
    split: tuple[float, float, float] | None = None
    standardise: bool | None = None
    skip_bad_rows: bool = False

    @property
    def dropped(self) -> tuple[str, ...]:
        """The columns that were asked to be left out."""
        return (self.drop,) if isinstance(self.drop, str) else self.drop or ()

    @property
    def targets(self) -> tuple[str, ...]:
        """The columns that were asked to be predicted."""
        return (self.target,) if isinstance(self.target, str) else self.target or ()

    def asked(self) -> set[str]:
        """The names of what was asked for, the seed apart."""
        given = {f.name for f in fields(self) if getattr(self, f.name) is not None}
        return given - {"seed", *(() if self.skip_bad_rows else ("skip_bad_rows",))}

    def refuse_all_but(self, fitting: Iterable[str], source: str) -> None:
        """Raise InputError if something was asked for that does not fit this source."""
        fits = set(fitting)
        for name in sorted(self.asked() - fits):
            offered = ", ".join(flag(each) for each in sorted(fits)) or "--seed"
            raise InputError(f"{flag(name)} does not fit {source}; leave it out. What fits: {offered}.")

    def at_least(self, name: str, least: int, default: int) -> int:
        """A whole number that was asked for, or the default; raises InputError if it is under `least`."""
        value: int | None = getattr(self, name)
        if value is None:
            return default
        if value < least:
            raise InputError(f"{flag(name)} {value} is too small: it must be at least {least}.")
        return value


def flag(name: str) -> str:
    """An argument's name as it is typed on the command line."""
    return "--" + name.replace("_", "-")
