"""Training as an iterator of updates: who wants to measure, does so between them."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor

from throughtime.data.dataset import Dataset
from throughtime.errors import TrainingError
from throughtime.models import Net
from throughtime.records import Evaluation, Settings, Update
from throughtime.training.bptt import truncation
from throughtime.training.clipping import clipping
from throughtime.training.epochs import Epochs, held_out
from throughtime.training.evaluation import assess
from throughtime.training.machine import Machine
from throughtime.training.place import Place
from throughtime.training.schedule import check, rate
from throughtime.training.snapshot import Identity, Position, Snapshot, moments_of, pack, put_moments, unpack
from throughtime.training.step import Stepper, Work
from throughtime.training.trouble import slower

_log = logging.getLogger("throughtime")


def train(
    model: Net,
    data: Dataset,
    settings: Settings = Settings(),  # noqa: B008 (frozen)
    *,
    seed: int = 0,
    folder: Path | str | None = None,
    resume: bool = False,
    device: str | torch.device | None = None,
    trackers: tuple[str, ...] = (),
) -> Training:
    """Prepare to train `model` in place on `data`; iterate over what this returns to train.

    The weights, losses and dropout follow from the settings, the seed and the model alone. With `folder` the history
    (`events.jsonl`), checkpoints, `best.safetensors` and `last.safetensors` go there, and nothing anywhere else; with
    `resume` a run that was killed goes on from its last whole checkpoint (or begins, if there is none) and ends
    bitwise as if it had not been, on the same CPU. Under `accelerate launch` every process calls this; the batch is
    shared out among them. `trackers` are accelerate's names ("tensorboard", ...).

    Raises TrainingError for settings that contradict each other or do not fit the data, or if another process trains
    in the folder; CheckpointError if the checkpoint belongs to another run.
    """
    return Training(model, data, settings, seed, None if folder is None else Path(folder), resume, device, trackers)


class Training(Iterator[Update]):
    """A training run; each `next` is one optimiser step, with the evaluation and checkpoint due after it done.

    Between two updates the model may be used, measured and put into evaluation mode, but not changed. Iterating
    raises TrainingError before a loss or gradient that is not finite reaches the weights.
    """

    def __init__(
        self,
        net: Net,
        data: Dataset,
        settings: Settings,
        seed: int,
        folder: Path | None,
        resume: bool,
        device: str | torch.device | None,
        trackers: tuple[str, ...],
    ) -> None:
        check(settings, seed)
        self.net, self.data, self.settings, self.seed = net, data, settings, seed
        self.notes: tuple[str, ...] = ()  # what had to be passed over on resuming, in sentences
        clipping(settings)  # refuses what cannot be before anything is made
        self._truncation = truncation(settings, net, data.answers_each_step)
        self._epochs = Epochs(data, settings, self._truncation, seed)
        self.total = self._epochs.windows(settings.epochs)
        """Updates in all; fewer come to pass where a window has no answer to learn from, or on early stopping."""
        if not len(data.valid):
            raise TrainingError(
                f"{data.card.name} has no samples to validate on; give it a larger share for validation."
            )
        self._machine = Machine(device, settings.precision, trackers, folder)
        net.to(self._machine.device)
        self._machine.share_weights(net)
        self._stepper = Stepper(net, settings, self._truncation, seed, self._machine)
        self._identity = Identity.of(net, settings, seed, data.card)
        self._at = Position()
        self._best: Evaluation | None = None
        self._best_weights: dict[str, Tensor] = {}
        self._evaluations: list[Evaluation] = []
        self._place = None if folder is None else Place(folder, self._machine.leads, resume)
        if self._place is not None:
            self._begin(self._place, resume)
        plain = {"seed": seed, "cell": net.recurrent.cell.name, **asdict(settings)}
        self._machine.start_trackers("throughtime", plain)
        self._updates = self._run()

    # -- what there is to see

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Update:
        return next(self._updates)

    @property
    def done(self) -> int:
        """Updates so far, those before a resume included."""
        return self._at.update

    @property
    def process(self) -> int:
        """Which of the processes that train together this is; 0 is the one that writes."""
        return self._machine.process

    @property
    def processes(self) -> int:
        """How many processes train together."""
        return self._machine.processes

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """Every evaluation so far, those before a resume included."""
        return tuple(self._evaluations)

    @property
    def best(self) -> Evaluation | None:
        """The best evaluation so far; its weights are kept."""
        return self._best

    @property
    def seconds(self) -> float:
        """What the updates took, those before a resume included."""
        return self._at.seconds

    @property
    def stopped(self) -> str:
        """Why training ended, in a sentence; empty while it has not."""
        return self._at.stopped

    # -- what can be asked between updates

    def evaluate(self, split: Literal["valid", "test"]) -> Evaluation:
        """The loss and score of the model as it is now on a held-out split; not written to the history.

        Under `accelerate launch` every process must call it.
        """
        chosen = held_out(self.data, split, self.settings)
        loss, score = assess(self.net, chosen, self.settings.batch_size, self._machine)
        at = self._at
        epoch = at.epoch - (at.batch == at.window == 0 < at.epoch)  # that of the last update
        return Evaluation(at.update, epoch, split, loss, score)

    def restore_best(self) -> None:
        """Put the best weights into the model, once training has ended.

        Raises TrainingError while it has not: it would go on from there.
        """
        if not self._at.stopped:
            raise TrainingError(
                "training has not ended, and the best weights would take its place; iterate to the end first."
            )
        if self._best_weights:
            self.net.load_state_dict(self._best_weights)

    def save(self) -> None:
        """Write a checkpoint now; with `resume` the run goes on from here.

        Under `accelerate launch` every process must call it. Raises TrainingError if there is no folder.
        """
        if self._place is None:
            raise TrainingError("there is no folder to save to; pass folder=... to train.")
        if not self._at.stopped:  # else it was saved when it ended
            self._save(self._place)

    def close(self) -> None:
        """Bring the history to the disk and let others train in the folder; done at the end by itself."""
        self._updates.close()
        self._release()

    # -- the loop

    def _run(self) -> Generator[Update]:
        try:
            while not self._at.stopped:
                yield from self._epoch(self._at.epoch)
        except TrainingError:
            self._keep_last()
            raise
        finally:
            self._release()

    def _epoch(self, epoch: int) -> Iterator[Update]:
        batches = self._epochs.batches(epoch)
        for number in range(self._at.batch, len(batches)):
            indices = batches[number]
            batch, own = self._epochs.load(indices, self._machine.process, self._machine.processes)
            self._batch_size = len(indices)
            windows = self._truncation.windows(batch.x.shape[0])
            before = self._at.samples if self._at.window == 0 else self._at.samples - len(indices)
            for place in range(self._at.window, len(windows)):
                work = Work(self._at.update + 1, batch, own, windows[place], indices)
                update = self._step(work, before + len(indices))
                ended = place + 1 == len(windows)
                over = ended and number + 1 == len(batches)
                if ended:
                    self._stepper.carried = None
                self._at = replace(
                    self._at,
                    update=self._at.update + (update is not None),
                    passed=self._at.passed + 1,
                    epoch=epoch + over,
                    batch=0 if over else number + ended,
                    window=0 if ended else place + 1,
                    samples=0 if over else before + len(indices),
                    seconds=self._at.seconds + (0.0 if update is None else update.seconds),
                )
                self._after(update, over)
                if update is not None:
                    yield update
                if self._at.stopped:
                    return

    def _step(self, work: Work, samples: int) -> Update | None:
        began = time.perf_counter()
        now = rate(self.settings, self._at.passed, self.total)
        taken = self._stepper.take(work, now)
        if taken is None:
            return None
        loss, (norm, clipped, threshold) = taken
        seconds = time.perf_counter() - began
        return Update(work.update, self._at.epoch, samples, loss, norm, clipped, threshold, now, seconds)

    # -- what comes after an update

    def _after(self, update: Update | None, over: bool) -> None:
        """Write the update down, and do what is due: evaluation, early stopping, checkpoint."""
        if update is not None:
            self._note(update)
        finished = self._at.passed == self.total
        if self.settings.evaluate_every is None:
            due = over
        else:
            due = finished or (update is not None and update.update % self.settings.evaluate_every == 0)
        if due:
            self._look()
        every = self.settings.checkpoint_every
        saves = due if every is None else update is not None and update.update % every == 0
        if finished and not self._at.stopped:
            self._at = replace(self._at, stopped=_done(self.settings.epochs))
        if self._at.stopped:
            self._keep_last()
        if self._place is not None and (saves or self._at.stopped):
            self._save(self._place)

    def _look(self) -> None:
        """Evaluate on validation; keep the weights if they are the best so far, stop if they have not been for long."""
        self._check_weights()
        seen = self.evaluate("valid")
        if self._better(seen):
            seen = replace(seen, best=True)
            self._best, stale = seen, 0
            self._best_weights = {name: t.detach().to("cpu", copy=True) for name, t in self.net.state_dict().items()}
            if self._place is not None:
                self._place.weights("best", self._best_weights)
        else:
            stale = self._at.stale + 1
        self._evaluations.append(seen)
        self._note(seen)
        patience = self.settings.patience
        stopped = (
            f"no better on validation for {stale} evaluations." if patience is not None and stale >= patience else ""
        )
        self._at = replace(self._at, stale=stale, stopped=stopped)

    def _save(self, place: Place) -> None:
        self._check_weights()
        carried = self._stepper.carried
        if carried is not None:
            carried = self._machine.gather_lanes(carried, self._batch_size)
        if self._machine.leads:
            scaler = self._machine.scaler
            snapshot = Snapshot(
                position=self._at,
                best=self._best,
                scaler=None if scaler is None else scaler.state_dict(),
                weights=self.net.state_dict(),
                best_weights=self._best_weights,
                moments=moments_of(self.net, self._stepper.optimizer),
                norms=torch.tensor(self._stepper.norms, dtype=torch.float64),
                carried=carried,
            )
            place.checkpoint(self._at.update, *pack(snapshot, self._identity))
        self._machine.wait()

    def _better(self, seen: Evaluation) -> bool:
        """A better score, or the same with a smaller loss; numbers that are not finite are never better."""
        if not (math.isfinite(seen.loss) and math.isfinite(seen.score)):
            return False
        sign = 1 if self.data.card.higher_is_better else -1
        best = self._best
        return best is None or (sign * seen.score, -seen.loss) > (sign * best.score, -best.loss)

    def _note(self, event: Update | Evaluation) -> None:
        if self._place is not None:
            self._place.note(event)
        if isinstance(event, Update):
            numbers = {"loss": event.loss, "grad_norm": event.grad_norm, "rate": event.rate}
        else:
            numbers = {f"{event.split}/loss": event.loss, f"{event.split}/score": event.score}
        self._machine.track(numbers, event.update)

    def _check_weights(self) -> None:
        """Refuse to keep weights that are not finite: a step too large can overflow with a finite gradient."""
        if not _finite(self.net.state_dict()):
            raise TrainingError(
                f"update {self._at.update}: a weight is no longer finite, so it is not kept; the step was too large. "
                f"Lower the learning rate, for example {slower(self.settings.rate)}."
            )

    def _keep_last(self) -> None:
        weights = self.net.state_dict()
        if self._place is not None and _finite(weights):
            self._place.weights("last", weights)

    # -- the folder

    def _begin(self, place: Place, resume: bool) -> None:
        """Go on from the newest checkpoint if asked to, else from the start."""
        try:
            self._machine.wait()  # the leader holds the folder now
            stored = place.newest() if resume else None
            if stored is not None:
                self.notes = stored.notes
                self._restore(unpack(stored, self._identity, place.path))
            evaluations, lost = place.begin(self._at.update)
            self._evaluations = list(evaluations)
            self.notes += lost
            for note in self.notes:
                _log.warning(note)
            if self._best_weights:  # the file may be of a future that is superseded
                place.weights("best", self._best_weights)
            if self._at.stopped:
                place.release()
            self._machine.wait()
        except BaseException:
            place.release()
            raise

    def _restore(self, snapshot: Snapshot) -> None:
        self._at, self._best = snapshot.position, snapshot.best
        self.net.load_state_dict(dict(snapshot.weights))
        put_moments(self.net, self._stepper.optimizer, snapshot.moments)
        self._best_weights = dict(snapshot.best_weights)
        self._stepper.norms = snapshot.norms.tolist()
        if self._machine.scaler is not None and snapshot.scaler is not None:
            self._machine.scaler.load_state_dict(dict(snapshot.scaler))
        if snapshot.carried is not None:
            here, of = self._machine.process, self._machine.processes
            device = self._machine.device
            self._stepper.carried = snapshot.carried.map(lambda part: part[:, here::of].contiguous().to(device))

    def _release(self) -> None:
        if self._place is not None:
            self._place.release()
        self._machine.stop_trackers()


def _done(epochs: int) -> str:
    return "its one epoch is done." if epochs == 1 else f"all {epochs} epochs are done."


def _finite(weights: Mapping[str, Tensor]) -> bool:
    return all(bool(torch.isfinite(weight).all()) for weight in weights.values())
