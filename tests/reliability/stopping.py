"""A program that runs uvicorn itself, leaves its log lines to whoever listens on the root, and stops it when POST /stop
says so.
"""

from __future__ import annotations

import asyncio
import sys

import uvicorn
from speaker import app

server = uvicorn.Server(uvicorn.Config(app, port=int(sys.argv[1]), log_config=None, log_level="info"))


@app.post("/stop")
def stop() -> None:
    server.should_exit = True


asyncio.run(server.serve())
