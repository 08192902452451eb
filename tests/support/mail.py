"""A mail server that keeps what it is sent."""

from __future__ import annotations

import email
import email.policy
import socketserver
import threading
from email.message import EmailMessage
from types import TracebackType
from typing import cast


class MailServer:
    """A mail server (SMTP) on 127.0.0.1."""

    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []
        server = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self._say("220 ready")
                for line in self.rfile:
                    word = line.split()[0].upper()
                    if word == b"QUIT":
                        self._say("221 bye")
                        return
                    if word == b"DATA":
                        self._say("354 go on")
                        data = b"".join(iter(self.rfile.readline, b".\r\n"))
                        message = email.message_from_bytes(data, policy=email.policy.default)
                        server.messages.append(cast(EmailMessage, message))
                    self._say("250 well")

            def _say(self, line: str) -> None:
                self.wfile.write(f"{line}\r\n".encode())

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.netloc = f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> MailServer:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
