"""How a sequence is run. `choose` asks the engines in the order of `ENGINES`; the result names who served."""

from throughtime.engines.reference import Reference
from throughtime.engines.seam import Engine, Job, Unrolled, unknown
from throughtime.errors import EngineError

ENGINES: tuple[Engine, ...] = (Reference(),)  # fastest first; the last one always serves

__all__ = ["ENGINES", "Engine", "Job", "Unrolled", "choose"]


def choose(job: Job, engine: str = "auto") -> Engine:
    """The engine asked for, or with "auto" the first that serves.

    Raises EngineError if there is no such engine, or if the one that was asked for cannot serve.
    """
    if engine == "auto":
        return next(candidate for candidate in ENGINES if candidate.why_not(job) is None)
    for candidate in ENGINES:
        if candidate.name == engine:
            reason = candidate.why_not(job)
            if reason is not None:
                raise EngineError(f'engine "{engine}" cannot serve here: {reason} Ask for engine="auto" instead.')
            return candidate
    raise unknown(engine, [candidate.name for candidate in ENGINES])
