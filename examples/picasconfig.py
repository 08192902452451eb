"""The settings of the example scripts. What the environment says wins over this file.

This file holds a password: run `chmod 600 picasconfig.py` once it is filled in.
"""

import os

PICAS_HOST_URL = os.environ.get("PICAS_HOST_URL", "https://picas.surfsara.nl:6984")
PICAS_DATABASE = os.environ.get("PICAS_DATABASE", "")
PICAS_USERNAME = os.environ.get("PICAS_USERNAME", "")
PICAS_PASSWORD = os.environ.get("PICAS_PASSWORD", "")
