"""Certificates for servers of the tests."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest


class Certificate:
    """A certificate for 127.0.0.1 from its own certificate authority."""

    def __init__(self, folder: Path, address: str = "IP:127.0.0.1") -> None:
        self.path = str(folder / "certificate.pem")
        self._key = str(folder / "key.pem")
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=picas test"]
        files = ["-keyout", self._key, "-out", self.path, "-addext", f"subjectAltName={address}"]
        subprocess.run([*command, *files], check=True, capture_output=True)

    def context(self) -> ssl.SSLContext:
        """Return the settings of a server that shows this certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.load_into(context)
        return context

    def load_into(self, context: ssl.SSLContext) -> None:
        """Let a server that is running show this certificate from now on."""
        context.load_cert_chain(self.path, self._key)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate that all tests share."""
    if shutil.which("openssl") is None:
        pytest.skip("the command openssl, which makes certificates, is not here")
    return Certificate(tmp_path_factory.mktemp("tls"))
