"""What was measured, as frozen typed values with their units; to JSON and npz and back. No torch here.

Norms of gradients are kept as base-10 logarithms, so that a product over thousands of steps stays a number:
−inf is a true zero, NaN is "not measured". Everything above `flow` and `training` sees only these.
"""

from throughtime.records.arrays import Floats, Integers
from throughtime.records.credit import CreditRecord, LagProfile
from throughtime.records.decoding import decode
from throughtime.records.depth import DepthRecord
from throughtime.records.files import DAMAGE, FORMAT, encode, read, read_json, write, write_json
from throughtime.records.layer import BoundRecord, Example, FlowRecord, GateStats, MemoryRecord
from throughtime.records.parameters import ParameterCredit
from throughtime.records.paths import CarouselRecord, PathRecord
from throughtime.records.place import MemoryGate, NonFinite, Place, Use
from throughtime.records.spectrum import LyapunovRecord, SingularRecord
from throughtime.records.training import (
    DataCard,
    Evaluation,
    Finding,
    Measurement,
    ModelCard,
    RunRecord,
    Settings,
    Study,
    Update,
    Watched,
)

__all__ = [
    "DAMAGE",
    "FORMAT",
    "BoundRecord",
    "CarouselRecord",
    "CreditRecord",
    "DataCard",
    "DepthRecord",
    "Evaluation",
    "Example",
    "Finding",
    "Floats",
    "FlowRecord",
    "GateStats",
    "Integers",
    "LagProfile",
    "LyapunovRecord",
    "Measurement",
    "MemoryGate",
    "MemoryRecord",
    "ModelCard",
    "NonFinite",
    "ParameterCredit",
    "PathRecord",
    "Place",
    "RunRecord",
    "Settings",
    "SingularRecord",
    "Study",
    "Update",
    "Use",
    "Watched",
    "decode",
    "encode",
    "read",
    "read_json",
    "write",
    "write_json",
]
