"""An HTTP server that answers with what a test tells it: proxies, overload, and connections that break."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Answer:
    """A response; without a status the connection is closed instead."""

    status: int | None
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    missing: int = 0
    """Bytes by which the declared length exceeds the body, so that the connection breaks inside of it."""


class ScriptedServer:
    """Gives one answer after the other, and the last one ever after."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        """Take the answers."""
        self.answers = list(answers)
        self.request_ids: list[str | None] = []
        self.url = ""


@contextmanager
def scripted_server(*answers: Answer) -> Iterator[ScriptedServer]:
    """Serve answers for the length of a block."""
    script = ScriptedServer(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            script.request_ids.append(self.headers.get("x-request-id"))
            answer = script.answers[min(len(script.request_ids), len(script.answers)) - 1]
            self.close_connection = True
            if answer.status is None:
                return
            self.send_response(answer.status)
            for name, value in {**answer.headers, "Content-Length": str(len(answer.body) + answer.missing)}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body)

        do_GET = do_POST

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        script.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield script
        finally:
            server.shutdown()
            thread.join()
