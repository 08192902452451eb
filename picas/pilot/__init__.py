"""A pilot at work: one run of a user's actor, and the pilots of a pool.

`engine` is what an actor keeps; `run` is one run, `loop` fills its slots, `work` processes a token in one of them and
`breakoff` ends them early. `fuse` ends a run whose tokens all fail. `heartbeat` and `leases` find pilots that died,
`holders` those that keep a run waiting; `fleet` shows those that live, and `presence` says of some whether they do.
`takeback` serves people who take tokens back from pilots.
"""

from .conditions import RetryPolicy, StopConditions, check_stop_function
from .engine import Engine, SlotCount
from .fleet import Kind, running_pilots, without_pilot
from .leases import MAX_LOST
from .options import STOP_SIGNALS, Options
from .presence import dead_pilots, silent_pilots, watch_time
from .takeback import dead_holders, describe_loss, left_alone, watch_text

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
    "dead_holders",
    "dead_pilots",
    "describe_loss",
    "left_alone",
    "running_pilots",
    "silent_pilots",
    "watch_text",
    "watch_time",
    "without_pilot",
]
