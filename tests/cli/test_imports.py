"""What the command imports at its start: nothing that takes a while and that few verbs need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HEAVY = (
    "cryptography",
    "matplotlib",
    "pkg_resources",
    "prometheus_client",
    "requests",
    "shtab",
    "starlette",
    "textual",
    "uvicorn",
    "yaml",
)


def test_the_command_starts_without_heavy_packages() -> None:
    code = f"import sys, picas.cli; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "\n"


def test_a_deprecated_pkg_resources_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "pkg_resources.py").write_text("import warnings\nwarnings.warn('pkg_resources is deprecated')\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import picas, pkg_resources"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stderr.count("UserWarning") == 1  # from the script's own import
