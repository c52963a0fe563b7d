"""Chooses how a trajectory is linearised: the one place that knows both ways."""

from throughtime.flow.linear.tangent import Tangent
from throughtime.flow.linear.trajectory import Trajectory
from throughtime.flow.linear.unitwise import unitwise
from throughtime.flow.linear.whole import Whole


def linearise(along: Trajectory) -> Tangent:
    """The linearised steps of a trajectory, the fast way where the cell allows it; the numbers are the same.

    Raises FlowError if the cell's step draws random numbers; if its sequences hear each other, when matrices are asked.
    """
    return unitwise(along) or Whole(along)
