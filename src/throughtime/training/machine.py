"""Where training runs: device, precision, processes and trackers, all by accelerate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.tracking import get_available_trackers
from torch import Tensor, nn

from throughtime.cells.cell import State
from throughtime.errors import TrainingError


def check_trackers(trackers: Sequence[str]) -> None:
    """Raise TrainingError for a tracker that accelerate does not know, or whose package is not installed."""
    missing = set(trackers) - {str(getattr(kind, "value", kind)) for kind in get_available_trackers()}
    if missing:
        names = ", ".join(sorted(missing))
        raise TrainingError(f"tracker {names} is not known or not installed; install it with pip, or leave it out.")


class Machine:
    """One process among those that train together; alone if nobody launched more."""

    def __init__(
        self, device: str | torch.device | None, precision: str, trackers: Sequence[str], folder: Path | None
    ) -> None:
        check_trackers(trackers)
        if trackers and folder is None:
            raise TrainingError("trackers write into the run's folder; give folder=... beside trackers=....")
        try:
            wanted = None if device is None else torch.device(device)
        except RuntimeError:
            raise TrainingError(f"{device!r} is no device; there is cpu, cuda, cuda:1 and so on.") from None
        _make_room(wanted, precision)
        try:
            self._accelerator = Accelerator(
                # Without this, processes on a machine that has no accelerator would not know of each other.
                cpu=wanted.type == "cpu" if wanted else not torch.accelerator.is_available(),
                mixed_precision=precision,
                log_with=list(trackers) or None,
                project_dir=folder,
            )
        except (ValueError, RuntimeError, ImportError) as error:
            raise TrainingError(
                f"training cannot start with device={device!r}, precision={precision!r}: {error}; use another device, "
                'precision="no", or no trackers.'
            ) from error
        self.device = self._accelerator.device if wanted is None else wanted
        if wanted is not None and wanted.type not in ("cpu", self._accelerator.device.type):
            raise TrainingError(f"there is no device {device!r} here; the one at hand is {self._accelerator.device}.")
        if precision == "fp16" and self.device.type == "cpu":
            raise TrainingError('precision="fp16" needs a GPU; on the CPU use precision="bf16" or "no".')
        self.process: int = self._accelerator.process_index
        self.processes: int = self._accelerator.num_processes
        self.scaler: torch.amp.GradScaler | None = self._accelerator.scaler
        self._tracking = bool(trackers)

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes."""
        return self.process == 0

    def autocast(self) -> AbstractContextManager[Any]:
        """The chosen precision, for the forward pass."""
        context: AbstractContextManager[Any] = self._accelerator.autocast()
        return context

    def wait(self) -> None:
        """Until every process is here."""
        if self.processes > 1:
            self._accelerator.wait_for_everyone()

    # -- sums over processes

    def sum(self, values: Tensor) -> Tensor:
        """The elementwise sum over processes."""
        if self.processes == 1:
            return values
        total: Tensor = self._accelerator.reduce(values, "sum")
        return total

    def sum_count(self, count: int) -> int:
        """The sum of a whole number over processes."""
        if self.processes == 1:
            return count
        return int(self.sum(torch.tensor(count, dtype=torch.int64, device=self.device)))

    def sum_gradients(self, parameters: Sequence[Tensor], loss: Tensor) -> Tensor:
        """Put the sum over processes into every `.grad`; returns the summed loss."""
        if self.processes == 1:
            return loss
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = self.sum(torch.cat([*(gradient.flatten() for gradient in gradients), loss.reshape(1).to(gradients[0])]))
        pieces = torch.split(flat, [*(gradient.numel() for gradient in gradients), 1])
        for gradient, piece in zip(gradients, pieces, strict=False):
            gradient.copy_(piece.view_as(gradient))
        total: Tensor = pieces[-1][0]
        return total

    def gather_lanes(self, state: State, lanes: int) -> State:
        """The parts (L·D, B, H) of every process's lanes, put together in their order (see `order.shard`)."""
        if self.processes == 1:
            return state

        def whole(part: Tensor) -> Tensor:
            everyone = part.new_zeros(part.shape[0], lanes, part.shape[2])
            everyone[:, self.process :: self.processes] = part
            return self.sum(everyone)

        return state.map(whole)

    def share_weights(self, net: nn.Module) -> None:
        """Give every process the weights of the first."""
        if self.processes > 1:
            with torch.no_grad():
                for parameter in net.parameters():
                    parameter.copy_(self.sum(parameter if self.leads else torch.zeros_like(parameter)))

    # -- random numbers

    @contextmanager
    def drawing(self, seed: int) -> Iterator[None]:
        """Draw from the stream of `seed`, and leave everybody else's as it was."""
        generators = [torch.default_generator]
        if self.device.type == "cuda":
            place = torch.cuda.current_device() if self.device.index is None else self.device.index
            generators.append(torch.cuda.default_generators[place])
        before = [generator.get_state() for generator in generators]
        for generator in generators:
            generator.manual_seed(seed)
        try:
            yield
        finally:
            for generator, state in zip(generators, before, strict=True):
                generator.set_state(state)

    # -- trackers

    def start_trackers(self, name: str, configuration: dict[str, Any]) -> None:
        """Begin to track, if trackers were asked for."""
        if self._tracking:
            plain = {key: str(value) if value is None else value for key, value in configuration.items()}
            self._accelerator.init_trackers(name, config=plain)

    def track(self, values: dict[str, float], update: int) -> None:
        """Hand numbers to the trackers."""
        if self._tracking:
            self._accelerator.log(values, step=update)

    def stop_trackers(self) -> None:
        """Let the trackers finish what they write."""
        if self._tracking:
            for tracker in self._accelerator.trackers:
                tracker.finish()
        self._tracking = False


def _make_room(wanted: torch.device | None, precision: str) -> None:
    """Let go of accelerate's process-wide state where it was made for another device or precision.

    It is made once a process and refuses to change; several trainings in one process may differ.
    """
    if not PartialState._shared_state:
        return
    held = PartialState()
    elsewhere = wanted is not None and wanted.type != held.device.type and held.num_processes == 1
    if elsewhere or AcceleratorState._shared_state:
        AcceleratorState._reset_state(reset_partial_state=elsewhere)
