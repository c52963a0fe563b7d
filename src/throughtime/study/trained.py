"""A trained net taken from its run folder, with what it needs to read other data, and its predictions.

Dimensions: N sequences, T steps, B sequences side by side, I values a step, O answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from throughtime.data import known
from throughtime.data.forecast import Ahead, ahead
from throughtime.data.inputs import Inputs, held_out, of_arrays, read
from throughtime.errors import InputError
from throughtime.models import Net
from throughtime.records import DataCard
from throughtime.records.preparation import Preparation
from throughtime.study.folder import Folder, Origin, folder_of
from throughtime.study.plan import Trial
from throughtime.study.run import reopen

_TOGETHER = 64  # sequences side by side


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a net answers: a row for each sequence of the source, or for each step ahead."""

    frame: pl.DataFrame  # `prediction` among its columns
    notes: tuple[str, ...] = ()  # what differs from the training data; sentences
    score: float | None = None  # the share of the source's own answers that were predicted, where it has them
    answers: int = 0  # how many those are
    text: str = ""  # of a language model: the prompt and what it went on with


@dataclass(frozen=True, eq=False)
class Trained:
    """A net with its best weights, in evaluation mode on the CPU, and how its data were read."""

    net: Net
    card: DataCard
    prepared: Preparation
    label: str  # of its run, as "gru:reset=before"
    source: str  # that it was trained on
    folder: Folder

    def predict(
        self,
        source: str | Path | Tensor | NDArray[np.generic] | None = None,
        *,
        steps: int | None = None,
        prompt: str | None = None,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> Predictions:
        """Predict for a file, or for sequences (N, T, I) in the units of the training data.

        Classes and values: one row for each sequence, with the label or the value in its own unit in the column
        `prediction`, and a column `probability_LABEL` for each class. Forecasts: `steps` rows ahead of each series (1),
        with their time. Language models: `steps` characters (200) after `prompt`, drawn with `temperature` by `seed`.
        The name of a task, such as "digits", stands for its test split.

        Raises InputError, naming the file and row where there is one, for what the net cannot read.
        """
        if steps is not None and steps < 1:
            raise InputError(f"--steps {steps} is too few; ask for at least 1.")
        if self.prepared.kind == "characters":
            return self._write_on(source, prompt, 200 if steps is None else steps, temperature, seed)
        if prompt is not None:
            raise InputError("--prompt fits a net that was trained on running text; give this one a file.")
        if source is None:
            raise InputError(f"there is nothing to predict for; name a file like {self.card.name} beside the folder.")
        if self.prepared.kind == "rows":
            if not isinstance(source, str | Path):
                raise InputError("a forecast reads a table with the columns of the training data; give a file.")
            return self._forecast(str(source), 1 if steps is None else steps)
        if steps is not None:
            raise InputError("--steps fits forecasts and running text; this net answers each sequence once.")
        return self._answers(self._inputs(source))

    # -- one answer for each sequence

    def _inputs(self, source: str | Path | Tensor | NDArray[np.generic]) -> Inputs:
        if isinstance(source, Tensor | np.ndarray):
            x = source.detach().cpu().numpy() if isinstance(source, Tensor) else source
            if self.prepared.kind == "words":
                raise InputError("this net reads texts; give a file with a column of texts.")
            return of_arrays(x, None, self.prepared, self.card, "x")
        if str(source) in known():
            if str(source) != self.source:
                raise InputError(
                    f'"{source}" is not what this net was trained on ({self.card.name}); give it a file to read.'
                )
            return held_out(reopen(self.folder)[1])
        return read(str(source), self.prepared, self.card)

    @torch.no_grad()
    def _answers(self, inputs: Inputs) -> Predictions:
        if self.net.readout == "every":
            return self._at_each_step(inputs)
        found = np.full((len(inputs.samples), self.card.outputs), np.nan)
        for places, batch in inputs.batches(_TOGETHER):
            prediction, _ = self.net(batch)
            if self.net.classes:
                prediction = prediction.softmax(-1)
            found[places] = prediction.double().numpy()
        frame = self._shown(pl.DataFrame({"row": inputs.rows}), found)
        if not self.net.classes:
            return Predictions(frame, inputs.notes)
        pairs = zip(inputs.truth, frame["prediction"].to_list(), strict=False)
        told = [(said, label) for said, label in pairs if said in self.card.labels and label is not None]
        score = sum(said == label for said, label in told) / len(told) if told else None
        return Predictions(frame, inputs.notes, score, len(told))

    def _at_each_step(self, inputs: Inputs) -> Predictions:
        """An answer at each step of each sequence."""
        found: list[NDArray[np.float64]] = [np.empty((0, self.card.outputs))] * len(inputs.samples)
        for places, batch in inputs.batches(_TOGETHER):
            prediction, _ = self.net(batch)
            if self.net.classes:
                prediction = prediction.softmax(-1)
            for b, (place, length) in enumerate(zip(places, batch.lengths.tolist(), strict=True)):
                found[place] = prediction[:length, b].double().numpy()
        rows = [row for row, answers in zip(inputs.rows, found, strict=True) for _ in answers]
        steps = [step for answers in found for step in range(len(answers))]
        return Predictions(self._shown(pl.DataFrame({"row": rows, "step": steps}), np.concatenate(found)), inputs.notes)

    def _shown(self, places: pl.DataFrame, found: NDArray[np.float64]) -> pl.DataFrame:
        """Labels with their probabilities, or values in their own units, beside where they belong; NaN is no answer."""
        names = self._labels()
        if not self.net.classes:
            columns = ["prediction"] if len(names) == 1 else [f"prediction_{name}" for name in names]
            return _frame(places, dict(zip(columns, self._own_units(found).T, strict=True)))
        best = [None if np.isnan(row).any() else names[int(row.argmax())] for row in found]
        places = places.with_columns(pl.Series("prediction", best, dtype=pl.String))
        return _frame(places, {f"probability_{label}": found[:, at] for at, label in enumerate(names)})

    def _labels(self) -> tuple[str, ...]:
        """What the net's outputs are called: classes or values; numbers, where they have no names."""
        return self.card.labels or tuple(str(at) for at in range(self.card.outputs))

    def _own_units(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        if not self.prepared.answer_mean:
            return values
        return np.asarray(values * np.array(self.prepared.answer_deviation) + np.array(self.prepared.answer_mean))

    # -- step by step

    @torch.no_grad()
    def _forecast(self, source: str, steps: int) -> Predictions:
        given = ahead(source, self.prepared, steps)
        targets = [self.prepared.columns.index(name) for name in self.prepared.answer]
        whole = len(targets) == len(self.prepared.columns)
        if steps > 1 and not whole:
            missing = [name for name in self.prepared.columns if name not in self.prepared.answer]
            raise InputError(
                f"--steps {steps}: this net predicts {', '.join(self.prepared.answer)} and reads {', '.join(missing)} "
                "too, which nobody knows ahead; ask for --steps 1, or train without --target."
            )
        found = [self._on(series.x, steps, targets) for series in given.series]
        values = np.concatenate(found)
        return Predictions(self._shown(_places(given), values), given.notes)

    def _on(self, x: Tensor, steps: int, targets: list[int]) -> NDArray[np.float64]:
        """Predictions for the steps after x (T, I), (steps, O), each read as the next row."""
        output, state = self.net.recurrent.run(self.net.encode(x.unsqueeze(1)))
        last = self.net.head(output[-1:])
        found = [last[0, 0]]
        for _ in range(steps - 1):
            row = torch.empty_like(last)
            row[..., targets] = last  # the net answers in the order of its targets
            output, state = self.net.recurrent.run(self.net.encode(row), state)
            last = self.net.head(output)
            found.append(last[0, 0])
        return np.asarray(torch.stack(found).double().numpy())

    @torch.no_grad()
    def _write_on(
        self,
        source: str | Path | Tensor | NDArray[np.generic] | None,
        prompt: str | None,
        steps: int,
        temperature: float,
        seed: int,
    ) -> Predictions:
        if isinstance(source, Tensor | np.ndarray):
            raise InputError("this net reads running text; give a prompt, or a text file to go on from.")
        if source is not None and prompt is not None:
            raise InputError("give a file or --prompt to go on from, not both.")
        if not 0 <= temperature < float("inf"):
            raise InputError(f"--temperature {temperature} must be 0 (always the likeliest) or more.")
        from throughtime.data import files

        begin = prompt if prompt is not None else "" if source is None else files.read(Path(source)).text()
        begin = (begin or "\n").replace("\r\n", "\n")
        number = {character: token for token, character in enumerate(self.prepared.vocabulary)}
        unknown = sorted({character for character in begin if character not in number})
        tokens = torch.tensor([number.get(character, 1) for character in begin])
        generator = torch.Generator().manual_seed(seed)
        output, state = self.net.recurrent.run(self.net.encode(tokens.unsqueeze(1)))
        written = []
        for _ in range(steps):
            scores = self.net.head(output[-1, 0]).double()
            scores[:2] = -torch.inf  # padding and the unknown character are never written
            if temperature == 0:
                token = scores.argmax()
            else:
                token = torch.multinomial((scores / temperature).softmax(-1), 1, generator=generator)[0]
            written.append(self.prepared.vocabulary[int(token)])
            output, state = self.net.recurrent.run(self.net.encode(token.view(1, 1)), state)
        shown = ", ".join(repr(character) for character in unknown[:10])
        notes = (f"characters that the net does not know, read as one unknown: {shown}",) if unknown else ()
        text = "" if prompt is None else prompt
        frame = pl.DataFrame({"step": range(1, steps + 1), "prediction": written})
        return Predictions(frame, notes, text=text + "".join(written))


def _frame(places: pl.DataFrame, columns: dict[str, NDArray[np.float64]]) -> pl.DataFrame:
    return places.with_columns([pl.Series(name, values).fill_nan(None) for name, values in columns.items()])


def _places(given: Ahead) -> pl.DataFrame:
    """The series and time of each predicted row."""
    columns: dict[str, list[str | int]] = {}
    if given.series_column:
        columns[given.series_column] = [series.name for series in given.series for _ in series.times]
    columns[given.time_column or "step"] = [time for series in given.series for time in series.times]
    return pl.DataFrame(columns)


def load(folder: str | Path, cell: str | None = None) -> Trained:
    """The net of a run folder, or of a study's folder: of several cells the best on validation, or the one of `cell`.

    Raises InputError if the folder, its data card or its weights are not there or not whole.
    """
    path = Path(folder)
    place, inside = folder_of(path)
    origin = place.read_origin()
    trials = [trial for trial in origin.plan.trials if not inside or place.run(trial.choice) == path]
    if cell is not None:
        trials = [trial for trial in trials if cell in (trial.choice.label, trial.choice.name)]
        if len(trials) != 1:
            labels = ", ".join(trial.choice.label for trial in origin.plan.trials)
            raise InputError(f'{path}: --cell "{cell}" names {len(trials) or "none"} of its cells; they are {labels}.')
    trial = _best(place, origin, trials)
    net = trained_net(place, origin, trial)
    net.eval().requires_grad_(False)
    prepared = origin.prepared or reopen(place)[1].prepared
    return Trained(net, origin.data, prepared, trial.choice.label, origin.plan.source, place)


def trained_net(folder: Folder, origin: Origin, trial: Trial) -> Net:
    """The net of one run with its best weights.

    Raises InputError if they are not there, or not those of this net.
    """
    file = folder.weights(trial.choice)
    if file is None:
        raise InputError(f"{folder.run(trial.choice)}: holds no trained weights yet; train, or go on with --resume.")
    net = Net.build(origin.data, trial.choice.name, options=trial.choice.options, seed=0, **vars(trial.shape))
    try:
        net.load_state_dict(load_file(file))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(
            f"{file}: these weights cannot be used ({' '.join(str(error).split())}); restore the file, or train again."
        ) from error
    return net


def _best(place: Folder, origin: Origin, trials: list[Trial]) -> Trial:
    """Of several trials the one with the best score on validation; of those that have weights."""
    there = [trial for trial in trials if place.weights(trial.choice) is not None]
    if not there:
        raise InputError(f"{place.path}: holds no trained weights yet; train, or go on with --resume.")
    sign = 1.0 if origin.data.metric == "accuracy" else -1.0

    def score(trial: Trial) -> float:
        run = place.read_run(trial, origin.plan.seed)
        scores = [sign * seen.score for seen in run.evaluations if seen.split == "valid"] if run is not None else []
        return max(scores, default=-float("inf"))

    return max(there, key=score) if len(there) > 1 else there[0]
