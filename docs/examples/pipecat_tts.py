"""A Pipecat TTS service that speaks through VibeVoice's /stream, in the trace of the agent's turn."""

from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import urlencode

import websockets
from opentelemetry import propagate
from pipecat.frames.frames import Frame, TTSAudioRawFrame
from pipecat.services.settings import TTSSettings
from pipecat.services.tts_service import TTSService
from pipecat.utils.tracing.service_decorators import traced_tts

SAMPLE_RATE = 24_000


class VibeVoiceTTSService(TTSService):
    """``VibeVoiceTTSService("ws://tts:3000/stream", voice="en-Emma_woman")`` in a pipeline with
    ``enable_tracing=True``.
    """

    def __init__(self, url: str, voice: str, **options: Any) -> None:
        settings = TTSSettings(model=None, voice=voice, language=None)
        super().__init__(
            push_start_frame=True, push_stop_frames=True, sample_rate=SAMPLE_RATE, settings=settings, **options
        )
        self._url = url

    @traced_tts
    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        query = urlencode({"text": text, "voice": self._settings.voice})
        async with websockets.connect(
            f"{self._url}?{query}", additional_headers=self._caller(), max_size=None
        ) as socket:
            async for message in socket:
                if isinstance(message, bytes):
                    yield TTSAudioRawFrame(message, SAMPLE_RATE, 1, context_id=context_id)

    def _caller(self) -> dict[str, str]:
        """The headers that make the request a child of the turn; Pipecat keeps its spans out of the current context."""
        tracing = getattr(self, "_tracing_context", None)
        headers: dict[str, str] = {}
        if tracing is not None:
            propagate.inject(headers, tracing.get_turn_context() or tracing.get_conversation_context())
        return headers
