"""How true the first-audio latency is: the server's figure beside a real client's, over requests with injected delays.

Both clocks are this machine's, so the server's moments must lie inside the client's; what is left between the two
figures is the connection's opening before the request reaches the application, and the client's own reading after the
send returned.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from tools.otlp import Receiver
from vibevoice_otel import semconv
from vibevoice_otel.commands.clients import WebSocketClient, speak
from vibevoice_otel.commands.demo.run import Service

GOAL_MS = 5.0


def differences(delay: float, requests: int) -> list[float]:
    """Milliseconds by which the client's first audio is later than the server's, for each request."""
    os.environ["VIBEVOICE_SERVICE_FAULTS"] = json.dumps({"first_audio_delay": delay})
    receiver = Receiver()
    service = Service(receiver.endpoint, page=False)
    try:
        service.wait_until_ready()
        found = []
        client = WebSocketClient(f"ws://127.0.0.1:{service.port}/stream?cfg=1.5&steps=5")
        for number in range(requests + 1):  # the first one warms up
            heard = asyncio.run(speak(client, "Good morning.", "en-Emma_woman", {}, 120.0))
            receiver.wait_for(lambda: len(receiver.spans(semconv.SYNTHESIZE.name)) > number, 10)  # noqa: B023 - asked at once
            root = max(receiver.spans(semconv.SYNTHESIZE.name), key=lambda s: s.start_time_unix_nano)
            server = root.attributes[semconv.FIRST_AUDIO_LATENCY.key]
            assert isinstance(server, float)
            assert heard.first_audio is not None
            if number:
                found.append((heard.first_audio - server) * 1000)
        return found
    finally:
        service.stop()
        receiver.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Print the distribution for each delay; 1 when a client's figure was ever shorter than the server's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=30, help="requests for each delay (30)")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    arguments = parser.parse_args(argv)
    began, rows = time.time(), {}
    for delay in (0.0, 0.1, 0.5):
        values = sorted(differences(delay, arguments.requests))
        rows[delay] = {
            "requests": len(values), "min": values[0], "median": statistics.median(values),
            "p95": values[round(0.95 * (len(values) - 1))], "max": values[-1],
        }  # fmt: skip
    if arguments.json:
        print(json.dumps({"client_minus_server_ms": rows, "seconds": time.time() - began}))
    else:
        table = Table(
            "injected delay ms",
            "requests",
            "min",
            "median",
            "p95",
            "max",
            title="client's less server's first audio, ms",
        )
        for delay, row in rows.items():
            table.add_row(
                f"{delay * 1000:.0f}", str(row["requests"]), *(f"{row[k]:.2f}" for k in ("min", "median", "p95", "max"))
            )
        Console().print(table)
    return 0 if all(row["min"] >= 0 for row in rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
