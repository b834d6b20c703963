"""A service over HTTP that answers what a test says: for clients, which are then told every way an answer can end."""

from __future__ import annotations

import http.server
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from vibevoice_otel import semconv

SECOND = b"\1\0" * semconv.SAMPLE_RATE_HZ
FORMAT = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 24_000, 48_000, 2, 16)
WAV = b"RIFF\xff\xff\xff\xffWAVE" + FORMAT + b"data\xff\xff\xff\xff"
EVENT = b'data: {"type": "speech.audio.delta", "audio": "AAECAwQFBgc="}\n\n'
MP3 = b"\xff\xfb\x90\x00" + bytes(413)


class Speaker(http.server.BaseHTTPRequestHandler):
    """Answers as its server's ``answer`` says: (code, headers, parts of the body, of which a number is a pause)."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.server.asked.append((self.path, self.headers, self.rfile.read(int(self.headers.get("content-length", 0)))))  # type: ignore[attr-defined]
        code, headers, parts = self.server.answer  # type: ignore[attr-defined]
        self.send_response(code)
        for name, value in {**headers, "transfer-encoding": "chunked"}.items():
            self.send_header(name, value)
        self.end_headers()
        for part in parts:
            if part is None:
                self.close_connection = True
                return  # in the middle of the body
            if isinstance(part, float):
                time.sleep(part)
                continue
            self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
        self.wfile.write(b"0\r\n\r\n")

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        """Nothing: the test's output is its own."""


@contextmanager
def http_service(
    code: int, kind: str, *parts: bytes | float | None, **headers: str
) -> Iterator[tuple[str, list[tuple]]]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Speaker) as server:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        server.answer, server.asked = (code, {"content-type": kind, **named}, parts), []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1/audio/speech", server.asked  # type: ignore[attr-defined]
        finally:
            server.shutdown()
            thread.join()
