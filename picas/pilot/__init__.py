"""A pilot at work: one run of a user's actor, and the pilots of a pool.

`engine` is what an actor keeps; `run` is one run, `loop` fills its slots, `work` processes a token in one of them and
`breakoff` ends them early. `fuse` ends a run whose tokens all fail. `heartbeat` and `leases` find pilots that died,
`holders` those that keep a run waiting; `fleet` lists them for people, `kinds` adds which tokens they can't take, and
`overview` what else there is to know of a pool; `presence` says of some whether they live. `orders` are what people
tell pilots to do; pilots find them in their own documents (`mailbox`) and obey (`duties`). One lets a pilot show the
output of a program (`watching`), for people who look at it (`following`, `printed`). `takeback` serves people who
take tokens back from pilots. `term` keeps up with the end of the job. `commands` lets programs do the work of tokens.

The autopilot starts pilots for the `demand` of the pool: `job_classes` is its table, `job_records` what it remembers of
the jobs, and `job_traces` what these have left in the pool. `turns` lets one autopilot act at a time, with `clocks`.
"""

from .commands import CommandLine, Programs, TokenCommand
from .conditions import RetryPolicy, StopConditions, check_stop_function
from .context import Listener
from .engine import Engine, SlotCount
from .fleet import running_pilots
from .leases import MAX_LOST
from .options import STOP_SIGNALS, Options
from .orders import find_pause
from .presence import dead_pilots, silent_pilots, watch_time
from .takeback import dead_holders, describe_loss, left_alone, watch_text

__all__ = [
    "MAX_LOST",
    "STOP_SIGNALS",
    "CommandLine",
    "Engine",
    "Listener",
    "Options",
    "Programs",
    "RetryPolicy",
    "SlotCount",
    "StopConditions",
    "TokenCommand",
    "check_stop_function",
    "dead_holders",
    "dead_pilots",
    "describe_loss",
    "find_pause",
    "left_alone",
    "running_pilots",
    "silent_pilots",
    "watch_text",
    "watch_time",
]
