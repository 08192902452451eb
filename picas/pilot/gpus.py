"""The GPUs of a pilot: which of them each token has, and what its program sees of them."""

from __future__ import annotations

from ..batch import GPUEnvironment
from ..picaslogger import get_logger
from ..processes import set_environment
from .attempt import Attempt

log = get_logger(__name__)


class GPUPool:
    """Assigns the GPUs of a pilot to tokens. A GPU is known by its number among those of the pilot.

    :param count: how many there are
    :param hides: whether the programs of tokens that need no GPU see none
    """

    def __init__(self, count: int, hides: bool) -> None:
        self._free = list(range(count))
        self._environment = GPUEnvironment(count, hides)
        self._has_warned = False  # that a program sees no GPU

    def assign(self, attempt: Attempt) -> None:
        """Give a token the GPUs that it needs; there must be so many."""
        attempt.gpus = [self._free.pop(0) for _ in range(attempt.needs.gpus)]

    def take_back(self, attempt: Attempt) -> None:
        """Let other tokens have the GPUs of one."""
        self._free += attempt.gpus

    def show(self, attempt: Attempt) -> None:
        """Limit the programs that this thread starts to the GPUs of a token."""
        set_environment(self._environment.of(attempt.gpus))
        if not (attempt.gpus or self._has_warned) and self._environment.of_none:
            self._has_warned = True
            log.warning("%s needs no GPU and sees none (PICAS_HIDE_GPUS=0 shows them)", attempt.id)
