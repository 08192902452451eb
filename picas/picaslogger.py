"""A logger for user scripts. The library itself logs to loggers below "picas" and installs no handler."""

from __future__ import annotations

import logging

picaslogger = logging.getLogger("PiCaS")
