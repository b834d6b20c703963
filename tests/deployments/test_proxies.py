"""Behind a real nginx, Caddy and HAProxy: the configurations of docs/deployment.md, tried as they stand there."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import websockets

from tests.reliability.harness import PATIENCE, Service, Sink, free_port, wait_for

Start = Callable[..., Service]
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "deployment.md"
CANARY = "heliotrope"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@dataclass(frozen=True)
class Proxy:
    """How one reverse proxy runs a block of the document."""

    package: str
    #: The configuration around the block, with PORT and FOLDER to be filled in.
    around: str
    #: Options; the configuration's path comes last.
    options: tuple[str, ...]

    @property
    def program(self) -> str | None:
        return shutil.which(self.command) or shutil.which(self.command, path="/usr/sbin")

    @property
    def command(self) -> str:
        return self.package.removesuffix("-light")


RUN = {
    "nginx": Proxy(
        "nginx-light",
        """daemon off; worker_processes 1; pid FOLDER/nginx.pid; error_log stderr;
events {}
http { access_log FOLDER/access.log; client_body_temp_path FOLDER/body; proxy_temp_path FOLDER/proxy;
fastcgi_temp_path FOLDER/f; uwsgi_temp_path FOLDER/u; scgi_temp_path FOLDER/s;
server { listen 127.0.0.1:PORT;
BLOCK
} }
""",
        ("-c",),
    ),
    "caddy": Proxy(
        "caddy",
        """{
    admin off
    auto_https off
    storage file_system FOLDER
}
http://127.0.0.1:PORT {
BLOCK
}
""",
        ("run", "--adapter", "caddyfile", "--config"),
    ),
    "haproxy": Proxy(
        "haproxy",
        """defaults
    mode http
    timeout connect 5s
    timeout client 300s
    timeout server 300s
frontend listeners
    bind 127.0.0.1:PORT
    default_backend speech
BLOCK
""",
        ("-db", "-f"),
    ),
}


@pytest.fixture
def proxied(tmp_path: Path) -> Iterator[Callable[[str, str, int], int]]:
    """``proxied(language, block, service's port)``: that proxy with this block; its port."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(language: str, block: str, service: int) -> int:
        proxy, port = RUN[language], free_port()
        if proxy.program is None:
            pytest.skip(f"{proxy.command} is not installed (Debian: {proxy.package})")
        block = block.replace("127.0.0.1:8000", f"127.0.0.1:{service}")
        text = proxy.around.replace("PORT", str(port)).replace("FOLDER", str(tmp_path)).replace("BLOCK", block)
        configuration = tmp_path / "proxy.conf"
        configuration.write_text(text)
        with (tmp_path / "proxy.log").open("wb") as log:
            command = [proxy.program, *proxy.options, str(configuration)]
            running.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path))

        def up() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        assert wait_for(up), (tmp_path / "proxy.log").read_text()
        return port

    yield begin
    for each in running:
        each.terminate()
        try:
            each.wait(10)
        except subprocess.TimeoutExpired:  # it waits for connections that nobody uses
            each.kill()
            each.wait()


def documented(name: str) -> tuple[str, str]:
    """The language and the text of the block below this heading of the document."""
    found = re.search(rf"\*{re.escape(name)}\*.*?```({'|'.join(RUN)})\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert found, f"docs/deployment.md shows no block for {name!r}"
    return found[1], found[2]


#: What the document calls it, uvicorn's options beside it, the client's path.
PROXIES = {
    "The path as it is": ((), "/stream"),
    "A prefix that nginx strips": (("--root-path", "/tts"), "/tts/stream"),
    "A prefix that nginx passes on": ((), "/tts/stream"),
    "A prefix that nginx adds": ((), "/stream"),
    "One path of many rooms": ((), "/rooms/17/stream"),
    "A prefix that Caddy strips": (("--root-path", "/tts"), "/tts/stream"),
    "A prefix that HAProxy strips": (("--root-path", "/tts"), "/tts/stream"),
}
APPLICATIONS = {"A prefix that nginx passes on": "mounted", "A prefix that nginx adds": "mounted"}
MOUNTED = """
import speaker
from fastapi import FastAPI

app = FastAPI()
app.mount("/tts", speaker.app)
app.add_api_route("/healthz", speaker.healthz)
"""


@pytest.mark.parametrize("name", PROXIES)
def test_a_request_through_the_proxy_is_told_whole(
    name: str, start: Start, sink: Sink, proxied: Callable[[str, str, int], int], tmp_path: Path
) -> None:
    """Its audio arrives, it is one success in the caller's trace with its first audio, and no span or metric has the
    text.
    """
    more, path = PROXIES[name]
    module = APPLICATIONS.get(name, "speaker")
    (tmp_path / "mounted.py").write_text(MOUNTED)
    port = free_port()
    command = (sys.executable, "-m", "uvicorn", f"{module}:app", "--port", str(port), *more)
    folders = f"{tmp_path}:{Path(__file__).parents[1] / 'reliability'}"
    # The speaker loads no model's code, so its routes must be named to be of speech.
    service = start(command=command, port=port, PYTHONPATH=folders, VIBEVOICE_OTEL_ROUTES="/stream,/speech")
    outside = proxied(*documented(name), port)
    heard = _listen(outside, path)
    assert heard == 3, service.log
    assert wait_for(lambda: sink.total("vibevoice.streaming.requests", status="success") == 1), service.log
    assert wait_for(lambda: sink.spans("vibevoice.synthesize") and servers(sink)), service.log
    assert wait_for(lambda: sink.total("vibevoice.first_audio.latency") == 1), service.log
    (root,) = sink.spans("vibevoice.synthesize")
    assert root.trace_id.hex() == TRACE
    assert CANARY not in sink.all_text()
    assert len(servers(sink)) == 1


def servers(sink: Sink) -> list[Any]:
    return [span for span in sink.spans() if span.kind == 2 and span.trace_id.hex() == TRACE]


def _listen(port: int, path: str) -> int:
    """Chunks heard through the proxy."""

    async def go() -> int:
        url = f"ws://127.0.0.1:{port}{path}?text={CANARY}&x={CANARY}"
        headers = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
        chunks = 0
        async with websockets.connect(url, additional_headers=headers, open_timeout=PATIENCE) as connection:
            async for message in connection:
                chunks += isinstance(message, bytes)
        return chunks

    return asyncio.run(go())
