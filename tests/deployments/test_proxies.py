"""Behind a real nginx: the configurations of docs/deployment.md, tried as they stand there."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import websockets

from tests.reliability.harness import Service, Sink, free_port, wait_for

Start = Callable[..., Service]
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "deployment.md"
CANARY = "heliotrope"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (Debian: nginx-light)")


@pytest.fixture
def proxied(tmp_path: Path) -> Iterator[Callable[[str, int], int]]:
    """``proxied(locations, service's port)``: nginx with these locations; its port."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(locations: str, service: int) -> int:
        port = free_port()
        (tmp_path / "nginx.conf").write_text(
            f"daemon off; worker_processes 1; pid {tmp_path}/nginx.pid; error_log stderr;\nevents {{}}\n"
            f"http {{ access_log {tmp_path}/access.log; client_body_temp_path {tmp_path}/body; proxy_temp_path "
            f"{tmp_path}/proxy;\n"
            f"fastcgi_temp_path {tmp_path}/f; uwsgi_temp_path {tmp_path}/u; scgi_temp_path {tmp_path}/s;\n"
            f"server {{ listen 127.0.0.1:{port};\n{locations.replace('127.0.0.1:8000', f'127.0.0.1:{service}')}\n}} "
            f"}}\n"
        )
        command = [str(NGINX), "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]
        with (tmp_path / "nginx.err").open("wb") as errors:
            running.append(subprocess.Popen(command, stderr=errors))

        def up() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        assert wait_for(up, 10), (tmp_path / "nginx.err").read_text()
        return port

    yield begin
    for each in running:
        each.terminate()
        each.wait(10)


def documented(name: str) -> str:
    """The nginx block below this heading of the document."""
    found = re.search(rf"\*{re.escape(name)}\*.*?```nginx\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert found, f"docs/deployment.md shows no nginx block for {name!r}"
    return found[1]


#: What the document calls it, uvicorn's options beside it, the client's path.
PROXIES = {
    "The path as it is": ((), "/stream"),
    "A prefix that nginx strips": (("--root-path", "/tts"), "/tts/stream"),
    "A prefix that nginx passes on": ((), "/tts/stream"),
    "A prefix that nginx adds": ((), "/stream"),
    "One path of many rooms": ((), "/rooms/17/stream"),
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
def test_a_request_through_nginx_is_told_whole(
    name: str, start: Start, sink: Sink, proxied: Callable[[str, int], int], tmp_path: Path
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
    outside = proxied(documented(name), port)
    heard = _listen(outside, path)
    assert heard == 3, service.log
    assert wait_for(lambda: sink.total("vibevoice.streaming.requests", status="success") == 1), service.log
    assert wait_for(lambda: sink.spans("vibevoice.synthesize") and servers(sink)), service.log
    (root,) = sink.spans("vibevoice.synthesize")
    assert root.trace_id.hex() == TRACE
    assert sink.total("vibevoice.first_audio.latency") == 1
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
        async with websockets.connect(url, additional_headers=headers) as connection:
            async for message in connection:
                chunks += isinstance(message, bytes)
        return chunks

    return asyncio.run(go())
