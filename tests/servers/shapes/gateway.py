"""In front of a back end: passes the request on with its trace, and the answer back as it comes. Has no model."""

import os

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

app = FastAPI()
client = httpx.AsyncClient(base_url=os.environ.get("BACK_END", ""))


@app.post("/v1/audio/speech")
async def speech(request: Request):
    names = ("content-type", "traceparent")
    headers = {name: request.headers[name] for name in names}
    passed = client.build_request("POST", "/v1/audio/speech", content=await request.body(), headers=headers)
    answer = await client.send(passed, stream=True)
    return StreamingResponse(answer.aiter_raw(), answer.status_code, media_type=answer.headers["content-type"])
