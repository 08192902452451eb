"""A pilot at work: one run of a user's actor, and the pilots of a pool.

`engine` is what an actor keeps; `run` is one run, `loop` fills its slots, `work` processes a token in one of them and
`breakoff` ends them early. `fuse` ends a run whose tokens all fail. `heartbeat` and `leases` find pilots that died,
`holders` those that keep a run waiting; `fleet` lists them for people, `overview` adds what else there is to know of a
pool, and `presence` says of some whether they live.
"""

from .conditions import RetryPolicy, StopConditions, check_stop_function
from .engine import Engine, SlotCount
from .fleet import Kind, running_pilots, without_pilot
from .leases import MAX_LOST
from .options import STOP_SIGNALS, Options
from .presence import dead_pilots, silent_pilots, watch_time

__all__ = [
    "MAX_LOST",
    "STOP_SIGNALS",
    "Engine",
    "Kind",
    "Options",
    "RetryPolicy",
    "SlotCount",
    "StopConditions",
    "check_stop_function",
    "dead_pilots",
    "running_pilots",
    "silent_pilots",
    "watch_time",
    "without_pilot",
]
