"""A LiveKit Agents TTS that speaks through VibeVoice's /stream, in the trace of the agent's turn."""

import uuid
from urllib.parse import urlencode

import websockets
from livekit.agents import DEFAULT_API_CONNECT_OPTIONS, APIConnectOptions, tts
from opentelemetry import propagate

SAMPLE_RATE = 24_000


class VibeVoiceTTS(tts.TTS):
    """``AgentSession(tts=VibeVoiceTTS("ws://tts:3000/stream", voice="en-Emma_woman"), ...)``."""

    def __init__(self, url: str, voice: str) -> None:
        super().__init__(capabilities=tts.TTSCapabilities(streaming=False), sample_rate=SAMPLE_RATE, num_channels=1)
        self.url, self.voice = url, voice

    def synthesize(
        self, text: str, *, conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS
    ) -> tts.ChunkedStream:
        return _Spoken(tts=self, input_text=text, conn_options=conn_options)


class _Spoken(tts.ChunkedStream):
    _tts: VibeVoiceTTS

    async def _run(self, output_emitter: tts.AudioEmitter) -> None:
        headers: dict[str, str] = {}
        propagate.inject(headers)  # the span of this attempt is current here
        query = urlencode({"text": self.input_text, "voice": self._tts.voice})
        output_emitter.initialize(
            request_id=uuid.uuid4().hex, sample_rate=SAMPLE_RATE, num_channels=1, mime_type="audio/pcm"
        )
        async with websockets.connect(f"{self._tts.url}?{query}", additional_headers=headers, max_size=None) as socket:
            async for message in socket:
                if isinstance(message, bytes):
                    output_emitter.push(message)
        output_emitter.flush()
