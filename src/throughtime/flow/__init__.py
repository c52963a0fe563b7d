"""Exact measures of how the gradient travels through time, each derived from the cell's step alone."""

from throughtime.flow.adjoint import adjoint, direct
from throughtime.flow.bounds import bounds
from throughtime.flow.credit import credit
from throughtime.flow.examples import example
from throughtime.flow.gates import gates, saturation
from throughtime.flow.jacobians import jacobians, ports, transport
from throughtime.flow.lags import lag_profile
from throughtime.flow.memory import memory
from throughtime.flow.probe import probe

__all__ = [
    "adjoint",
    "bounds",
    "credit",
    "direct",
    "example",
    "gates",
    "jacobians",
    "lag_profile",
    "memory",
    "ports",
    "probe",
    "saturation",
    "transport",
]
