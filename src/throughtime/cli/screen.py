"""What a person sees while a study runs, on stderr: a live line a cell on a terminal, else plain lines now and then."""

from __future__ import annotations

import time
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from throughtime.records import DataCard, Evaluation, FlowRecord, RunRecord, Study, Update
from throughtime.study.run import Ended, Event, Failed, Interrupted, Looking, Started

_WHEN = {"before": "before training", "during": "while it trains", "after": "after training"}
INTERVAL = 10.0  # seconds between plain lines


def score_text(value: float, metric: str) -> str:
    """A score as people write it: accuracy in percent, the rest with three digits that matter."""
    return f"{value:.1%}" if metric == "accuracy" else f"{value:.3g}"


def horizon_text(flow: FlowRecord | None) -> str:
    """A horizon; "at least" when the measure ended there."""
    if flow is None or flow.horizon is None:
        return "–"
    return f"≥ {flow.horizon}" if flow.horizon == flow.lags.longest() else str(flow.horizon)


def half_life_text(flow: FlowRecord | None) -> str:
    """A half-life; "more than" the longest lag if half of the gradient was still there."""
    if flow is None or flow.horizon is None:
        return "–"
    return f"> {flow.lags.longest()}" if flow.half_life is None else str(flow.half_life)


def decay_text(flow: FlowRecord | None) -> str:
    """In how many steps a gradient halves behind the first step back; a dash where it does not."""
    return "–" if flow is None or flow.decay is None else f"{flow.decay:.3g}"


class Screen(Protocol):
    """Shows events as they come."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...
    def show(self, event: Event) -> None:
        """Show one event."""
        ...


class Quiet:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def show(self, event: Event) -> None:
        """Nothing."""


class _Line:
    """The numbers of the running cell."""

    def __init__(self, metric: str) -> None:
        self.metric = metric
        self.label, self.total, self.done = "", 0, 0
        self.began, self.began_at = 0.0, 0
        self.loss = self.norm = float("nan")
        self.score = "–"
        self.horizon = "–"
        self.looking = ""

    def take(self, event: Event) -> None:
        self.looking = ""
        match event:
            case Looking():
                self.looking = f"measuring layer {event.layer + 1} of {event.layers} {_WHEN[event.moment]}"
            case Started():
                self.__init__(self.metric)  # type: ignore[misc]
                self.label, self.total, self.done = event.choice.label, event.updates, event.done
                self.began, self.began_at = time.monotonic(), event.done
            case Update():
                self.done, self.loss, self.norm = event.update, event.loss, event.grad_norm
            case Evaluation():
                self.score = score_text(event.score, self.metric)
            case FlowRecord():
                self.horizon = horizon_text(event)
            case _:
                pass

    @property
    def speed(self) -> float:
        """Updates a second since this command began the cell."""
        return (self.done - self.began_at) / max(1e-9, time.monotonic() - self.began)

    @property
    def numbers(self) -> str:
        if self.looking:
            return self.looking
        loss, norm = ("–", "–") if self.done == self.began_at else (f"{self.loss:.4g}", f"{self.norm:.3g}")
        return f"loss {loss}  valid {self.score}  |grad| {norm}  horizon {self.horizon}"


class Live:
    """A progress bar for each cell, on a terminal."""

    def __init__(self, console: Console, card: DataCard) -> None:
        self._line = _Line(card.metric)
        label = max(12, console.width - 72)  # the numbers need the rest
        self._progress = Progress(
            TextColumn(
                "{task.description}", style="bold", markup=False, table_column=Column(no_wrap=True, max_width=label)
            ),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn("{task.fields[numbers]}", style="dim", markup=False),
            console=console,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def show(self, event: Event) -> None:
        """Redraw the cell's line."""
        self._line.take(event)
        if isinstance(event, Started):
            self._task = self._progress.add_task(
                event.choice.label, total=event.updates, completed=event.done, speed="", numbers=""
            )
        if self._task is not None:
            done = self._line.total if isinstance(event, Ended) else self._line.done
            speed = f"{self._line.speed:.1f}/s"
            self._progress.update(self._task, completed=done, speed=speed, numbers=self._line.numbers)


class Plain:
    """One line an interval, where stderr is no terminal."""

    def __init__(self, console: Console, card: DataCard) -> None:
        self._console = console
        self._line = _Line(card.metric)
        self._shown = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def show(self, event: Event) -> None:
        """Print a line when a cell begins or ends, and one an interval between."""
        line = self._line
        line.take(event)
        now = time.monotonic()
        match event:
            case Started():
                again = f", going on after {event.done}" if event.done else ""
                text = f"{line.label}: {event.updates} updates{again}, {event.parameters:,} parameters"
            case Ended():
                text = f"{line.label}: done in {event.run.seconds:.0f} s; {line.numbers}"
            case Failed():
                text = f"{line.label}: stopped. {event.why}"
            case Interrupted():
                text = f"{line.label}: saved after update {event.update}"
            case Looking() if now - self._shown >= INTERVAL:
                text = f"{line.label}: {line.looking}"
            case _ if now - self._shown >= INTERVAL:
                left = (line.total - line.done) / max(1e-9, line.speed)
                text = f"{line.label}: {line.done}/{line.total}, {line.speed:.1f}/s, {left:.0f} s left; {line.numbers}"
            case _:
                return
        self._shown = now
        self._console.print(text, soft_wrap=True)


def table(study: Study) -> Table:
    """The result: a row a cell."""
    metric = study.data.metric
    result = Table(box=None, pad_edge=False, header_style="bold")
    result.add_column("cell", overflow="fold")  # a long name is folded; no number is ever cut
    for name in (f"test {metric}", "horizon", "half-life", "decay", "clipped", "updates", "seconds"):
        result.add_column(name, justify="right", no_wrap=True)
    for run in study.runs:
        result.add_row(*_row(run, metric))
    return result


def guess(study: Study) -> str:
    """What the scores are to be held against."""
    return f"the obvious guess ({study.data.baseline_is}): {score_text(study.data.baseline, study.data.metric)}"


def _row(run: RunRecord, metric: str) -> tuple[str, ...]:
    after = run.last_flow("after")
    seen = run.settings.clip_by != "backward"  # what acts within the backward pass is not counted
    return (
        run.label,
        score_text(run.test.score, metric) if run.test else "–",
        horizon_text(after),
        half_life_text(after),
        decay_text(after),
        f"{run.clipped_share:.0%}" if seen else "–",
        str(len(run.updates)),
        f"{run.seconds:.1f}",
    )
