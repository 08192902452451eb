"""Child processes of a pilot, and interrupting its Python code.

Start a child, see which children run, end them with everything that they started, keep their output in files of a
bounded size, and raise an exception in code whose time is up. If the pilot itself is killed, a supervisor process
ends what it has left.
"""

from .children import GRACE, KILL_WAIT, child, end, end_all, environment, running, set_environment
from .descendants import age_of
from .interrupts import RETRY, SETTLE, TimeLimit, exposed, interrupt, is_shielded, shielded
from .outputs import MAX_OUTPUT, Outputs

__all__ = [
    "GRACE",
    "KILL_WAIT",
    "MAX_OUTPUT",
    "RETRY",
    "SETTLE",
    "Outputs",
    "TimeLimit",
    "age_of",
    "child",
    "end",
    "end_all",
    "environment",
    "exposed",
    "interrupt",
    "is_shielded",
    "running",
    "set_environment",
    "shielded",
]
