"""The options of the verbs that train, said once; each dataclass is a panel of `--help`.

A value that was not given is None, and then the task's recipe decides.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer


class Gaps(StrEnum):
    """What to do where a number is missing."""

    refuse = "refuse"
    previous = "previous"


class Decimal(StrEnum):
    """Marks before decimals."""

    point = "point"
    comma = "comma"


class ClipBy(StrEnum):
    """Ways to clip."""

    norm = "norm"
    parameter = "parameter"
    value = "value"
    always = "always"
    percentile = "percentile"
    backward = "backward"


class Schedule(StrEnum):
    """Courses of the learning rate."""

    constant = "constant"
    cosine = "cosine"


class Readout(StrEnum):
    """Which outputs answer."""

    last = "last"
    mean = "mean"


class RecurrentInit(StrEnum):
    """Starts of the recurrent weights."""

    orthogonal = "orthogonal"
    identity = "identity"


class InputInit(StrEnum):
    """Starts of the input weights."""

    lecun = "lecun"


class Measure(StrEnum):
    """How much is measured beside training."""

    quick = "quick"
    usual = "usual"
    whole = "whole"
    none = "none"


class Precision(StrEnum):
    """Number formats of mixed precision."""

    no = "no"
    bf16 = "bf16"
    fp16 = "fp16"


def _option(panel: str, help_text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=help_text, rich_help_panel=panel, show_default=False, **more)


_DATA, _MODEL, _TRAINING, _RUN = "Data", "Model", "Training", "Run"


@dataclass(frozen=True)
class Reading:
    """How the source is read: the keyword arguments of `tt.data.load`."""

    text: Annotated[str | None, _option(_DATA, "The column of texts (found by itself if only one can be).")] = None
    label: Annotated[str | None, _option(_DATA, "The column of labels (found by itself if only one can be).")] = None
    target: Annotated[list[str] | None, _option(_DATA, "A column of numbers to predict (repeatable; forecasting: all "
                                                       "if none is named).")] = None  # fmt: skip
    series: Annotated[
        str | None, _option(_DATA, 'Forecasting: the column that tells series apart ("": all rows are one).')
    ] = None
    time: Annotated[str | None, _option(_DATA, "Forecasting: the column of time; rows are put in its order.")] = None
    date_format: Annotated[str | None, _option(_DATA, "How dates are written, as in %d/%m/%Y.")] = None
    decimal: Annotated[Decimal | None, _option(_DATA, "The mark before decimals.")] = None
    header: Annotated[bool | None, typer.Option("--header/--no-header", help="Whether the first row names the columns.",
                                                rich_help_panel=_DATA, show_default=False)] = None  # fmt: skip
    drop: Annotated[list[str] | None, _option(_DATA, "A column to leave out (repeatable).")] = None
    gaps: Annotated[Gaps | None, _option(_DATA, "Forecasting: refuse gaps, or fill with the value before.")] = None
    max_length: Annotated[int | None, _option(_DATA, "Longest sequence; longer ones keep their end.", min=2)] = None
    vocabulary: Annotated[int | None, _option(_DATA, "Most words or characters known.")] = None
    minimum_count: Annotated[int | None, _option(_DATA, "How often a word must occur in training to be known.")] = None
    lag: Annotated[
        int | None,
        _option(
            _DATA,
            "Generated tasks: how many steps lie between cause and effect. In measure, of "
            "other data: how many steps back has to be learned.",
        ),
    ] = None
    samples: Annotated[int | None, _option(_DATA, "Generated tasks: how many sequences to learn from.")] = None
    split: Annotated[tuple[float, float, float] | None, _option(_DATA, "Shares of train, valid and test, as in 0.8 0.1 "
                                                                       "0.1.")] = None  # fmt: skip
    standardise: Annotated[bool | None, typer.Option("--standardise/--no-standardise", help="Scale numbers by the "
                                                     "training rows (done unless told otherwise).",
                                                     rich_help_panel=_DATA, show_default=False)] = None  # fmt: skip
    skip_bad_rows: Annotated[bool | None, typer.Option("--skip-bad-rows", help="Drop rows that cannot be used.",
                                                       rich_help_panel=_DATA, show_default=False)] = None  # fmt: skip


@dataclass(frozen=True)
class ShapeOptions:
    """The model around the cell."""

    hidden: Annotated[int | None, _option(_MODEL, "Units of each recurrent layer.", min=1)] = None
    layers: Annotated[int | None, _option(_MODEL, "Recurrent layers.", min=1)] = None
    bidirectional: Annotated[bool | None, typer.Option("--bidirectional", help="Read from both ends.",
                                                       rich_help_panel=_MODEL, show_default=False)] = None  # fmt: skip
    embedding: Annotated[int | None, _option(_MODEL, "Units of a word's or character's vector.", min=1)] = None
    dropout: Annotated[float | None, _option(_MODEL, "Dropout on embeddings, between layers and before the answer.",
                                             min=0.0, max=0.99)] = None  # fmt: skip
    readout: Annotated[Readout | None, _option(_MODEL, "Answer from the last step's output or from their mean.")] = None
    engine: Annotated[str | None, _option(_MODEL, "auto, cpu, native, triton or reference.")] = None
    recompute: Annotated[bool | None, typer.Option("--recompute", help="Long sequences in little memory: make the "
                                                   "inside of each step again on the way back.", rich_help_panel=_MODEL,
                                                   show_default=False)] = None  # fmt: skip
    forget_bias: Annotated[float | None, _option(_MODEL, "Forget-gate bias at the start (sum of both biases).")] = None
    input_init: Annotated[InputInit | None, _option(_MODEL, "Input weights at the start: N(0, 1/fan-in).")] = None
    recurrent_init: Annotated[RecurrentInit | None, _option(_MODEL, "Recurrent weights at the start.", "--init")] = None
    chrono: Annotated[int | None, _option(_MODEL, "Chrono initialisation for lags up to this many steps.", min=2)] = (
        None
    )


@dataclass(frozen=True)
class SettingsOptions:
    """How to train."""

    epochs: Annotated[int | None, _option(_TRAINING, "Passes over the training data.", min=1)] = None
    batch_size: Annotated[int | None, _option(_TRAINING, "Sequences an update.", min=1)] = None
    rate: Annotated[float | None, _option(_TRAINING, "Adam's learning rate.", min=0.0)] = None
    warmup: Annotated[float | None, _option(_TRAINING, "Share of all updates in which the rate rises.",
                                            min=0.0, max=1.0)] = None  # fmt: skip
    schedule: Annotated[Schedule | None, _option(_TRAINING, "The rate's course after warm-up.")] = None
    weight_decay: Annotated[float | None, _option(_TRAINING, "Decoupled weight decay.", min=0.0)] = None
    clip: Annotated[float | None, _option(_TRAINING, "Clipping threshold; a percentile with --clip-by percentile (10); "
                                                     "0: no clipping.", min=0.0)] = None  # fmt: skip
    clip_by: Annotated[ClipBy | None, _option(_TRAINING, "What is clipped.")] = None
    window: Annotated[int | None, _option(_TRAINING, "Truncate backpropagation: back over so many steps (k2).",
                                          min=1)] = None  # fmt: skip
    stride: Annotated[int | None, _option(_TRAINING, "Truncated: an update every so many steps (k1).", min=1)] = None
    patience: Annotated[int | None, _option(_TRAINING, "Stop after so many evaluations without a better one.",
                                            min=1)] = None  # fmt: skip
    evaluate_every: Annotated[int | None, _option(_TRAINING, "Evaluate every so many updates (default: each epoch).",
                                                  min=1)] = None  # fmt: skip
    checkpoint_every: Annotated[int | None, _option(_TRAINING, "Checkpoint every so many updates (default: with each "
                                                               "evaluation).", min=1)] = None  # fmt: skip
    precision: Annotated[Precision | None, _option(_TRAINING, "Mixed precision.")] = None


@dataclass(frozen=True)
class Running:
    """Where and how the command runs."""

    out: Annotated[Path | None, _option(_RUN, "Folder to write (default: runs/NAME, numbered if it exists).")] = None
    seed: Annotated[int, typer.Option(help="Decides split, order, start and dropout.", rich_help_panel=_RUN,
                                     min=0, max=2**63 - 1)] = 0  # fmt: skip
    device: Annotated[str | None, _option(_RUN, "cpu, cuda, … (default: the best there is).")] = None
    tracker: Annotated[list[str] | None, _option(_RUN, "Also log to tensorboard, wandb or mlflow (repeatable).")] = None
    measure: Annotated[Measure, typer.Option(help="How much of the gradient is measured: quick looks; the usual, which "
                                             "takes about as long as training or half a minute (of long sequences the "
                                             "last steps); the whole of every sequence; none.",
                                             rich_help_panel=_RUN)] = Measure.usual  # fmt: skip
    resume: Annotated[Path | None, _option(_RUN, "Go on with the study in this folder; its own plan is used.")] = None
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the study that stands at --out.",
                                            rich_help_panel=_RUN)] = False  # fmt: skip
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Two batches through everything; nothing is kept.",
                                          rich_help_panel=_RUN)] = False  # fmt: skip
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress; the result and errors only.",
                                        rich_help_panel=_RUN)] = False  # fmt: skip


def given(options: object) -> dict[str, Any]:
    """The fields that were given on the command line, enumerations as their text."""
    values = {f.name: getattr(options, f.name) for f in dataclasses.fields(options)}  # type: ignore[arg-type]
    return {k: v.value if isinstance(v, StrEnum) else v for k, v in values.items() if v is not None}


def spread(function: Callable[..., None]) -> Callable[..., None]:
    """Let typer see each field of a dataclass argument as an option of its own.

    A parameter of `function` whose type is a dataclass becomes that dataclass's fields; they are gathered again
    before the call.
    """
    hints = get_type_hints(function, include_extras=True)
    signature = inspect.signature(function)
    panels: dict[str, Any] = {name: kind for name, kind in hints.items() if dataclasses.is_dataclass(kind)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        if name not in panels:
            parameters.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        fields = get_type_hints(panels[name], include_extras=True)
        parameters += [
            inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=fields[f.name])
            for f in dataclasses.fields(panels[name])
        ]

    def command(**values: Any) -> None:
        gathered = {
            name: kind(**{f.name: values.pop(f.name) for f in dataclasses.fields(kind)})
            for name, kind in panels.items()
        }
        function(**values, **gathered)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    command.__doc__ = function.__doc__
    command.__name__ = function.__name__
    return command
