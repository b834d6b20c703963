"""``python -m vibevoice_otel.service``: the embedded service under uvicorn."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys

from vibevoice_otel.service.settings import ServiceSettings, ServiceSettingsError


def main(argv: list[str] | None = None) -> int:
    """Serve until told to stop; 2 when a setting is wrong."""
    parser = argparse.ArgumentParser(
        prog="vibevoice-otel serve", description="A VibeVoice streaming service (settings: VIBEVOICE_SERVICE_*)."
    )
    parser.add_argument("--host", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (8000; 0 for any)")
    parser.add_argument(
        "--model", help="a checkpoint: a path or a hub id; without one, a random model that makes noise"
    )
    parser.add_argument("--device", help="cpu, cuda or mps (cpu)")
    parser.add_argument("--concurrency", type=int, help="requests that work at once (2)")
    parser.add_argument("--timeout", type=float, help="seconds that a request may take, waiting included (60)")
    parser.add_argument("--queue", type=int, help="requests that may wait (8)")
    try:
        settings = ServiceSettings.load(**vars(parser.parse_args(argv)))
    except ServiceSettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.INFO, format="%(levelname)s:     %(message)s")
    import uvicorn  # noqa: PLC0415 - after the settings, so that a wrong one is told at once

    from vibevoice_otel.service.app import create_app, url_bytes  # noqa: PLC0415
    from vibevoice_otel.service.drain import DrainingServer  # noqa: PLC0415

    app = create_app(settings)
    # Noise-like PCM hardly compresses; the attempt would cost every chunk time.
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_level="info",
        ws_per_message_deflate=False,
        h11_max_incomplete_event_size=url_bytes(settings.max_text),
    )
    server = DrainingServer(config, app.state.drain, settings.drain)
    with contextlib.suppress(KeyboardInterrupt):  # as uvicorn.run does
        server.run()
    return 0 if server.started else 3


if __name__ == "__main__":
    sys.exit(main())
