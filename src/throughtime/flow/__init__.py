"""Exact measures of how the gradient travels through time, each derived from the cell's step alone.

docs/measures.md defines each.
"""

from throughtime.flow.adjoint import adjoint, direct
from throughtime.flow.bounds import bounds
from throughtime.flow.carousel import carousel
from throughtime.flow.credit import credit
from throughtime.flow.depth import depth
from throughtime.flow.examples import example
from throughtime.flow.gates import gates, saturation
from throughtime.flow.jacobians import jacobians, ports, transport
from throughtime.flow.lags import lag_profile
from throughtime.flow.lyapunov import lyapunov, spectrum
from throughtime.flow.memory import memory
from throughtime.flow.parameter_pairs import parameter_pairs
from throughtime.flow.parameters import parameter_credit, parameter_terms
from throughtime.flow.paths import excursions, only, paths, without
from throughtime.flow.probe import probe
from throughtime.flow.singular import singular

__all__ = [
    "adjoint",
    "bounds",
    "carousel",
    "credit",
    "depth",
    "direct",
    "example",
    "excursions",
    "gates",
    "jacobians",
    "lag_profile",
    "lyapunov",
    "memory",
    "only",
    "parameter_credit",
    "parameter_pairs",
    "parameter_terms",
    "paths",
    "ports",
    "probe",
    "saturation",
    "singular",
    "spectrum",
    "transport",
    "without",
]
