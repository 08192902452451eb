"""The loggers: that of user scripts, and those of this package, which install no handler."""

from __future__ import annotations

import contextlib
import logging

picaslogger = logging.getLogger("PiCaS")
"""A logger for user scripts. The library itself logs to loggers below "picas"."""


class _Logger(logging.Logger):
    """A logger whose calls never raise.

    Handlers do raise, for example if the user's code has closed `sys.stderr`. What is logged must not decide whether a
    token is saved, or a thread goes on.
    """

    def handle(self, record: logging.LogRecord) -> None:
        """Pass a record to the handlers."""
        with contextlib.suppress(Exception):
            super().handle(record)


def get_logger(name: str) -> logging.Logger:
    """Return the logger of a module of this package; a call of it never raises.

    :param name: the module's name
    """
    logger = logging.getLogger(name)
    if type(logger) is logging.Logger:  # and not a class that the user has set
        logger.__class__ = _Logger
    return logger
