"""The one batch that somebody's own model is measured on, laid out as most people write their models: sequences first.

Dimensions: B sequences, T steps (the longest of the batch), I values a step, O outputs, N samples of a file.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from throughtime.data import load
from throughtime.data.dataset import Batch, Dataset, Split
from throughtime.data.options import flag
from throughtime.errors import InputError
from throughtime.models import counts
from throughtime.records import DataCard

SEQUENCES = 32  # in the batch, unless another number is asked for
TARGETS = ("y", "target", "targets")
UNCOUNTED = -100  # the class that torch's cross-entropy leaves out


@dataclass(frozen=True)
class Specimen:
    """Inputs by name, and what is to be learned from them."""

    arrays: Mapping[str, Tensor]  # "x" and "lengths"; of an .npz file whatever it holds but the target
    y: Tensor  # (B,) or (B, O); one answer a step: (B, T) or (B, T, O)
    card: DataCard
    said: str  # what it is, in a sentence without its full stop
    steps: int  # T of x
    size: int  # B
    each_step: bool = False
    counted: Tensor | None = None  # (B, T) bool: the answers that count; None: all
    time_first: bool = False
    target: str = ""  # how the target is named, for a model that asks for it too; empty: none may

    def to(self, device: torch.device, dtype: torch.dtype) -> Specimen:
        """The same batch where the model is, its numbers in the model's precision."""
        counted = None if self.counted is None else self.counted.to(device)
        arrays = {name: _as(array, device, dtype) for name, array in self.arrays.items()}
        return replace(self, arrays=arrays, y=_as(self.y, device, dtype), counted=counted)


class Batches:
    """Batches of the training split, for a factory that trains its model: each pass is one epoch in a new order."""

    def __init__(self, dataset: Dataset, size: int, seed: int, time_first: bool) -> None:
        self._split, self._size, self._time_first = dataset.train, size, time_first
        self._order = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return -(-len(self._split) // self._size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """x, lengths and y, laid out as in the batch that is measured."""
        order = torch.randperm(len(self._split), generator=self._order).tolist()
        for start in range(0, len(order), self._size):
            batch = self._split.batch(order[start : start + self._size])
            yield _laid(batch.x, self._time_first), batch.lengths, _answers(batch, self._time_first)


def held_out(
    source: str, reading: Mapping[str, Any], *, batch: int, seed: int, time_first: bool
) -> tuple[Specimen, Batches]:
    """Held-out sequences of whatever `tt.data.load` reads, spread by length.

    Raises InputError if the source cannot be used.
    """
    dataset = load(source, seed=seed, **reading)
    rows = spread(dataset.valid, batch, continues=dataset.continues)
    taken = dataset.valid.batch(rows)
    counted = counts(taken)
    card = dataset.card
    arrays = {"x": _laid(taken.x, time_first), "lengths": taken.lengths}
    shortest, longest = int(taken.lengths.min()), int(taken.lengths.max())
    span = f"{longest} {card.step}{'s' * (longest != 1)} each" if shortest == longest else (
        f"{shortest} to {longest} {card.step}s, padded at the end"
    )  # fmt: skip
    specimen = Specimen(
        arrays,
        _answers(taken, time_first),
        card,
        f"{taken.size} of {len(dataset.valid)} held-out sequences of {card.name}, {span}",
        int(taken.x.shape[0]),
        taken.size,
        taken.each_step,
        None if counted is None or bool(counted.all()) else counted.transpose(0, 1),
        time_first,
    )
    return specimen, Batches(dataset, batch, seed, time_first)


def spread(split: Split, count: int, *, continues: bool) -> list[int]:
    """Some samples of a split, from its longest to its shortest; of a stream, windows that are whole.

    The longest comes first, as `pack_padded_sequence` asks for unless it is told otherwise.
    """
    lengths = split.lengths()
    rows = np.argsort(-lengths, kind="stable")
    if continues:
        rows = np.flatnonzero(lengths == lengths.max())
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))
    return [int(row) for row in rows[chosen]]


def from_arrays(path: Path, *, batch: int, time_first: bool) -> Specimen:
    """The arrays of an .npz file as they are, or some of its sequences, evenly spread by length.

    Raises InputError if the file is damaged, has no target, or its arrays hold different numbers of sequences.
    """
    arrays = _read(path)
    target = next((name for name in TARGETS if name in arrays), None)
    if target is None:
        names = ", ".join(arrays) or "nothing"
        raise InputError(
            f"{path}: none of its arrays is named {', '.join(TARGETS)}, only {names}; save the target as y."
        )
    y = arrays.pop(target)
    main = "x" if "x" in arrays else next((n for n, array in arrays.items() if array.ndim >= 2), None)
    if main is None:
        raise InputError(f"{path}: holds nothing to read beside {target}; save the input as x {_order(time_first)}.")
    x = arrays[main]
    axis = 1 if time_first else 0
    if x.ndim < 2 or 0 in x.shape:
        raise InputError(f"{path}: {main} is {x.dtype} {x.shape}; it has to be {_order(time_first)}.")
    total, steps = x.shape[axis], x.shape[1 - axis]
    everything = {**arrays, target: y}
    axes = {name: _axis(array, x, axis) for name, array in everything.items()}
    for name, array in everything.items():
        if array.ndim == 0 or array.shape[axes[name]] != total:
            raise InputError(
                f"{path}: {name} is {array.shape}, but {main} {x.shape} holds {total} sequences; "
                + (
                    f"with --time-first {main} is (T, B, ...)."
                    if time_first
                    else "is it (T, B, ...)? Then --time-first."
                )
            )
    lengths = arrays.get("lengths")
    if lengths is not None and (lengths.ndim != 1 or lengths.min() < 1 or lengths.max() > steps):
        raise InputError(
            f"{path}: lengths is {lengths.dtype} {lengths.shape}, {lengths.min()} to {lengths.max()}; it has to be one "
            f"number of steps for each sequence, from 1 to the {steps} steps of {main}."
        )
    order = np.argsort(lengths, kind="stable") if lengths is not None else np.arange(total)
    chosen = np.sort(order[np.unique(np.linspace(0, total - 1, min(batch, total)).round().astype(int))])
    taken = {name: _tensor(np.take(array, chosen, axes[name])) for name, array in everything.items()}
    answer = taken.pop(target)
    each_step = y.ndim >= 2 and y.shape[:2] == x.shape[:2]
    some = f"{len(chosen)} of {total}" if len(chosen) < total else f"the {total}"
    card = _card(path, x, y, lengths, each_step, steps, total)
    ends = np.full(total, steps) if lengths is None else lengths
    span = (
        f"{steps} step{'s' * (steps != 1)} each in {main}"
        if ends.min() == steps
        else f"{ends[chosen].min()} to {ends[chosen].max()} of {steps} steps"
    )
    said = f"{some} sequences in {path.name}, {span}"
    return Specimen(taken, answer, card, said, steps, len(chosen), each_step, None, time_first, target)


def refuse_reading(path: Path, reading: Mapping[str, Any]) -> None:
    """Raise InputError for options of reading that an .npz batch has no use for."""
    if reading:
        raise InputError(
            f"{path}: an .npz file is handed to the model as it is, so {', '.join(map(flag, reading))} cannot be "
            "followed; leave it out."
        )


def _as(array: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    return array.to(device, dtype) if array.is_floating_point() else array.to(device)


def _laid(array: Tensor, time_first: bool) -> Tensor:
    """(T, B, ...) as it is, or (B, T, ...)."""
    return array if time_first else array.transpose(0, 1).contiguous()


def _answers(batch: Batch, time_first: bool) -> Tensor:
    """The targets; classes that do not count are the one that torch's cross-entropy leaves out."""
    y, counted = batch.y, counts(batch)
    if counted is not None and not y.is_floating_point():
        y = torch.where(counted, y, UNCOUNTED)
    return _laid(y, time_first) if batch.each_step else y


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise InputError(f"{path}: holds one array without a name; save x and y together with numpy.savez.")
            found = dict(file)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the name.") from None
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        AttributeError,
        TypeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        pickled = "pickle" in str(error)
        why = "holds Python objects, or is no .npz file" if pickled else f"this .npz file is damaged ({error})"
        raise InputError(f"{path}: {why}; save plain arrays with numpy.savez.") from None
    for name, array in found.items():
        if array.dtype.kind not in "biuf":
            raise InputError(f"{path}: {name} holds {array.dtype}; save numbers or truth values.")
    return found


def _axis(array: NDArray[Any], x: NDArray[Any], axis: int) -> int:
    """Where an array counts sequences: as x does, or first if it has one entry a sequence."""
    if axis == 0 or array.ndim < 2:
        return 0
    return 1 if array.shape[:2] == x.shape[:2] or array.shape[0] != x.shape[1] else 0


def _tensor(array: NDArray[Any]) -> Tensor:
    whole = array.dtype.kind in "iu"
    return torch.from_numpy(np.ascontiguousarray(array.astype(np.int64) if whole else array))


def _order(time_first: bool) -> str:
    return "(T, B) or (T, B, I)" if time_first else "(B, T) or (B, T, I)"


def _card(
    path: Path, x: NDArray[Any], y: NDArray[Any], lengths: NDArray[Any] | None, each_step: bool, steps: int, total: int
) -> DataCard:
    """What a factory may ask of the data."""
    tokens, classes = x.dtype.kind in "iu" and x.ndim == 2, y.dtype.kind in "biu"
    values = y.shape[2:] if each_step else y.shape[1:]
    ends = np.array([steps]) if lengths is None else lengths
    return DataCard(
        name=path.name,
        kind="next" if each_step else "classification" if classes else "regression",
        step="step",
        tokens=tokens,
        inputs=int(x.max()) + 1 if tokens else x.shape[2] if x.ndim > 2 else 1,
        outputs=int(y.max()) + 1 if classes else int(np.prod(values, dtype=int)),
        labels=(),
        metric="accuracy" if classes else "mse",
        baseline=float("nan"),
        baseline_is="",
        lag=None,
        sizes={"batch": total},
        lengths=(int(ends.min()), int(np.median(ends)), int(ends.max())),
        digest="",
    )
