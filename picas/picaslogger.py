"""The logger that user scripts share; the library itself logs below "picas" and installs no handler."""

from __future__ import annotations

import logging

picaslogger = logging.getLogger("PiCaS")
