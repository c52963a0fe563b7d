"""What settings must be, and the learning rate they give at each step."""

from __future__ import annotations

import math
from typing import get_args, get_type_hints

from throughtime.errors import TrainingError
from throughtime.records import Settings

SEEDS = 2**63  # what every generator takes


def check(settings: Settings, seed: int) -> None:
    """Refuse settings that cannot be, or contradict each other.

    Raises TrainingError naming the setting.
    """
    for name in ("epochs", "batch_size", "window", "stride", "patience", "evaluate_every", "checkpoint_every"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise TrainingError(f"{name}={value} cannot be; it must be at least 1.")
    if not 0 < settings.rate < math.inf:
        raise TrainingError(f"rate={settings.rate} cannot be; the learning rate must be over 0.")
    if not 0 <= settings.warmup <= 1:
        raise TrainingError(f"warmup={settings.warmup} cannot be; it is a share of all updates, 0 to 1.")
    if not 0 <= settings.weight_decay < math.inf:
        raise TrainingError(f"weight_decay={settings.weight_decay} cannot be; it must be 0 or more.")
    if settings.stride is not None and settings.window is None:
        raise TrainingError(f"stride={settings.stride} needs a window: a step every stride, back over window steps.")
    if settings.stride is not None and settings.window is not None and settings.stride > settings.window:
        raise TrainingError(
            f"stride={settings.stride} is more than window={settings.window}: some steps would never get a gradient; "
            "use a stride of at most the window."
        )
    schedules = get_args(get_type_hints(Settings)["schedule"])
    if settings.schedule not in schedules:
        raise TrainingError(f"schedule={settings.schedule!r} is not known; there is {', '.join(schedules)}.")
    if not 0 <= seed < SEEDS:
        raise TrainingError(f"seed={seed} cannot be; it must be 0 or more, and under 2 to the power of 63.")


def rate(settings: Settings, step: int, steps: int) -> float:
    """The learning rate of a step (counted from 0) among `steps`: a linear warm-up, then constant or a half cosine.

    Source: Loshchilov and Hutter, "SGDR", 2017, equation 5, without restarts.
    """
    warm = math.ceil(settings.warmup * steps)
    if step < warm:
        return settings.rate * (step + 1) / warm
    if settings.schedule == "constant" or steps <= warm:
        return settings.rate
    return settings.rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))
