"""What can go wrong, as types: one base error, caught once, in the command line.

Every message says what happened, why, and what to do next, in one or two sentences.
"""


class ThroughtimeError(Exception):
    """The base of every error this package raises on purpose; the command exits with status 2 on it."""


class InputError(ThroughtimeError):
    """A file or value that a person gave cannot be used; names the file and the row where there is one."""


class CellError(ThroughtimeError):
    """A cell was asked for, defined or called in a way its contract does not allow."""


class EngineError(ThroughtimeError):
    """The engine that was asked for cannot serve this call; says why, and what can."""


class EngineWarning(UserWarning):
    """An engine serves, but not as well as it could on this machine; says what to do about it."""


class FlowError(ThroughtimeError):
    """A measure of gradient flow is not defined for what it was given."""


class FlowWarning(UserWarning):
    """A training goes on without being watched, or with less of it than was asked for; says why."""


class TrainingError(ThroughtimeError):
    """Training cannot start or go on: a non-finite loss, settings that contradict each other."""


class CheckpointError(ThroughtimeError):
    """A checkpoint is absent, damaged, or belongs to another model."""
