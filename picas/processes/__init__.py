"""Child processes of a pilot, and interrupting its Python code.

Start a child, see which children run, end them with everything that they started, keep their output in files of a
bounded size, and raise an exception in code whose time is up. Each child has a supervisor process, which ends it if
the pilot itself is killed.
"""

from .accounting import Account, note_failure
from .children import GRACE, Child, child, end, end_all, environment, left_behind, running, set_environment
from .descendants import age_of
from .faults import describe_system_error, fault_of, own_work, reach, start_thread
from .forks import forks, workers_in_use
from .interrupts import RETRY, SETTLE, TimeLimit, exposed, interrupt, is_shielded, shielded
from .outputs import MAX_OUTPUT, Outputs, OutputTails, check_inherited, output_tails, read_pipes
from .supervisor import KILL_WAIT

__all__ = [
    "GRACE",
    "KILL_WAIT",
    "MAX_OUTPUT",
    "RETRY",
    "SETTLE",
    "Account",
    "Child",
    "OutputTails",
    "Outputs",
    "TimeLimit",
    "age_of",
    "check_inherited",
    "child",
    "describe_system_error",
    "end",
    "end_all",
    "environment",
    "exposed",
    "fault_of",
    "forks",
    "interrupt",
    "is_shielded",
    "left_behind",
    "note_failure",
    "output_tails",
    "own_work",
    "reach",
    "read_pipes",
    "running",
    "set_environment",
    "shielded",
    "start_thread",
    "workers_in_use",
]
