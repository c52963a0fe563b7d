"""Random numbers that are a pure function of what they are for, and the cuts into splits made from them.

Only the raw bits of Philox are taken: NumPy promises that stream for ever and on every machine, and promises
neither for the distributions built on it. So the same seed gives the same samples and the same splits anywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from throughtime.errors import InputError

Shares = tuple[float, float, float]  # of train, valid, test
SHARES: Shares = (0.8, 0.1, 0.1)


class Draws:
    """A stream of random numbers, decided by the seed and by what they are for, such as ("adding", "train", 12)."""

    def __init__(self, seed: int, *purpose: str | int) -> None:
        key = hashlib.sha256(repr((int(seed), *purpose)).encode()).digest()[:16]
        self._bits = np.random.Philox(key=int.from_bytes(key, "little"))

    def keys(self, count: int) -> NDArray[np.uint64]:
        """Random 64-bit integers, (count,)."""
        return np.asarray(self._bits.random_raw(count), dtype=np.uint64)

    def uniform(self, count: int) -> NDArray[np.float64]:
        """Numbers in [0, 1), (count,), each a multiple of 2⁻⁵³."""
        return np.asarray((self.keys(count) >> np.uint64(11)) * 2.0**-53, dtype=np.float64)

    def below(self, limit: int, count: int) -> NDArray[np.int64]:
        """Integers in 0..limit−1, (count,)."""
        return np.asarray(self.uniform(count) * limit, dtype=np.int64)

    def one(self, limit: int) -> int:
        """One integer in 0..limit−1."""
        return (int(self._bits.random_raw()) >> 11) * limit >> 53


def checked(shares: Sequence[float] | None) -> Shares:
    """The shares of train, valid and test as fractions of one; the default if None.

    Raises InputError unless they are three positive numbers.
    """
    if shares is None:
        return SHARES
    if len(shares) != 3 or not all(np.isfinite(share) and share > 0 for share in shares):
        raise InputError(
            f"the split {tuple(shares)} cannot be used: it needs three positive shares, of train, valid and test, "
            "such as 0.8, 0.1, 0.1."
        )
    whole = sum(shares)
    return (shares[0] / whole, shares[1] / whole, shares[2] / whole)


def cut(groups: NDArray[np.int64], shares: Shares, seed: int) -> tuple[NDArray[np.int64], ...]:
    """The rows (N,) shared out to train, valid and test, each group (a label, say) nearly in proportion.

    Rows are shuffled within their group; then, one after another, each goes to the split that lacks most of its
    share so far. Answers with the row numbers of each split, ascending.
    """
    order = np.lexsort((Draws(seed, "split").keys(len(groups)), groups))
    belongs = np.empty(len(groups), dtype=np.int64)
    have = [0, 0, 0]
    for seen, row in enumerate(order.tolist(), start=1):
        lacking = [share * seen - had for share, had in zip(shares, have, strict=True)]
        split = lacking.index(max(lacking))
        have[split] += 1
        belongs[row] = split
    return tuple(np.flatnonzero(belongs == split) for split in range(3))
