"""A service that stops uvicorn by its own decision when it is told to, and one that never had a signal; it ends in the ordinary way."""

from __future__ import annotations

import asyncio
import sys

import uvicorn
from speaker import app

server = uvicorn.Server(uvicorn.Config(app, port=int(sys.argv[1])))


@app.post("/stop")
def stop() -> None:
    server.should_exit = True


asyncio.run(server.serve())
