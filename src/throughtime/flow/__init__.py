"""Exact measures of how the gradient travels through time, each derived from the cell's step alone."""

from throughtime.flow.adjoint import adjoint, direct
from throughtime.flow.bounds import bounds
from throughtime.flow.credit import credit
from throughtime.flow.depth import depth
from throughtime.flow.examples import example
from throughtime.flow.gates import gates, saturation
from throughtime.flow.jacobians import jacobians, ports, transport
from throughtime.flow.lags import lag_profile
from throughtime.flow.memory import memory
from throughtime.flow.parameters import parameter_credit, parameter_terms
from throughtime.flow.probe import probe

__all__ = [
    "adjoint",
    "bounds",
    "credit",
    "depth",
    "direct",
    "example",
    "gates",
    "jacobians",
    "lag_profile",
    "memory",
    "parameter_credit",
    "parameter_terms",
    "ports",
    "probe",
    "saturation",
    "transport",
]
