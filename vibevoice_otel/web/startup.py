"""An application's life span: until it says that it is ready, what it speaks is its own warm-up."""

from __future__ import annotations

from vibevoice_otel.recording.warmup import startup
from vibevoice_otel.web.ends import App, Message, Receive, Scope, Send


async def start_up(app: App, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve the life span of ``app``, which until it is ready is starting up."""
    over = [False]

    def done() -> None:
        if not over[0]:
            over[0] = True
            startup.done()

    async def observed(message: Message) -> None:
        if message["type"].startswith("lifespan.startup."):
            done()
        await send(message)

    startup.begun()
    try:
        await app(scope, receive, observed)
    finally:
        done()
