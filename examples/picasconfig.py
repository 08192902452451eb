"""The settings of the example scripts. The environment takes precedence over this file.

Run `chmod 600 picasconfig.py` when you have filled in your password, so that nobody else can read it.
"""

import os

PICAS_HOST_URL = os.environ.get("PICAS_HOST_URL", "https://picas.surfsara.nl:6984")
PICAS_DATABASE = os.environ.get("PICAS_DATABASE", "")
PICAS_USERNAME = os.environ.get("PICAS_USERNAME", "")
PICAS_PASSWORD = os.environ.get("PICAS_PASSWORD", "")
