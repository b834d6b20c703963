"""The WebSocket server: /stream speaks, /config names the voices."""

import asyncio
import copy
import json
import os
import threading
import traceback
from pathlib import Path
from queue import Empty, Queue

import numpy as np
import torch
from fastapi import FastAPI, WebSocket
from starlette.websockets import WebSocketDisconnect, WebSocketState
from vibevoice.modular.modeling_vibevoice_streaming_inference import VibeVoiceStreamingForConditionalGenerationInference
from vibevoice.modular.streamer import AudioStreamer
from vibevoice.processor.vibevoice_streaming_processor import VibeVoiceStreamingProcessor

BASE = Path(__file__).parent
SAMPLE_RATE = 24_000


class StreamingTTSService:
    def __init__(self, model_path, device="cuda", inference_steps=5):
        self.model_path = model_path
        self.device = device
        self.inference_steps = inference_steps
        self.sample_rate = SAMPLE_RATE
        self.processor = None
        self.model = None
        self.voice_presets = {}
        self.default_voice_key = None
        self._voice_cache = {}

    def load(self):
        self.processor = VibeVoiceStreamingProcessor.from_pretrained(self.model_path)
        # fmt: off
        self.model = VibeVoiceStreamingForConditionalGenerationInference.from_pretrained(self.model_path, device_map="cpu")  # noqa: E501
        # fmt: on
        self.model.eval()
        scheduler = self.model.model.noise_scheduler
        self.model.model.noise_scheduler = scheduler.from_config(scheduler.config, algorithm_type="sde-dpmsolver++")
        self.model.set_ddpm_inference_steps(num_steps=self.inference_steps)
        self.voice_presets = self._load_voice_presets()
        self.default_voice_key = self._determine_voice_key(os.environ.get("VOICE_PRESET"))
        self._ensure_voice_cached(self.default_voice_key)

    def _load_voice_presets(self):
        return {path.stem: path for path in sorted((BASE.parent / "voices" / "streaming_model").rglob("*.pt"))}

    def _determine_voice_key(self, name):
        if name and name in self.voice_presets:
            return name
        return "en-Carter_man" if "en-Carter_man" in self.voice_presets else next(iter(self.voice_presets))

    def _ensure_voice_cached(self, key):
        if key not in self._voice_cache:
            self._voice_cache[key] = torch.load(self.voice_presets[key], map_location="cpu", weights_only=False)
        return self._voice_cache[key]

    def _get_voice_resources(self, requested_key):
        key = requested_key if requested_key and requested_key in self.voice_presets else self.default_voice_key
        return key, self._ensure_voice_cached(key)

    def _prepare_inputs(self, text, prefilled_outputs):
        return self.processor.process_input_with_cached_prompt(
            text=text.strip(),
            cached_prompt=prefilled_outputs,
            padding=True,
            return_tensors="pt",
            return_attention_mask=True,
        )

    def _run_generation(
        self,
        inputs,
        audio_streamer,
        errors,
        cfg_scale,
        do_sample,
        temperature,
        top_p,
        refresh_negative,
        prefilled_outputs,
        stop_event,
    ):
        try:
            self.model.generate(
                **inputs,
                max_new_tokens=None,
                cfg_scale=cfg_scale,
                audio_streamer=audio_streamer,
                stop_check_fn=stop_event.is_set,
                all_prefilled_outputs=copy.deepcopy(prefilled_outputs),
            )
        except Exception as failure:
            errors.append(failure)
            traceback.print_exc()
            audio_streamer.end()

    def stream(
        self,
        text,
        cfg_scale=1.5,
        do_sample=False,
        temperature=0.9,
        top_p=0.9,
        refresh_negative=True,
        inference_steps=None,
        voice_key=None,
        log_callback=None,
        stop_event=None,
    ):
        if not text.strip():
            return
        _, prompt = self._get_voice_resources(voice_key)
        steps = self.inference_steps if inference_steps is None else inference_steps
        self.model.set_ddpm_inference_steps(num_steps=steps)
        self.inference_steps = steps  # and so it stays
        inputs = self._prepare_inputs(text, prompt)
        streamer = AudioStreamer(batch_size=1, stop_signal=None, timeout=None)
        errors = []
        stop = stop_event or threading.Event()
        worker = threading.Thread(
            target=self._run_generation,
            kwargs={
                "inputs": inputs,
                "audio_streamer": streamer,
                "errors": errors,
                "cfg_scale": cfg_scale,
                "do_sample": do_sample,
                "temperature": temperature,
                "top_p": top_p,
                "refresh_negative": refresh_negative,
                "prefilled_outputs": prompt,
                "stop_event": stop,
            },
            daemon=True,
        )
        worker.start()
        try:
            for tensor in streamer.get_stream(0):
                chunk = tensor.to(torch.float32).numpy().reshape(-1)
                peak = np.max(np.abs(chunk)) if chunk.size else 0.0
                if peak > 1.0:
                    chunk = chunk / peak
                log_callback("model_progress", chunk_sec=chunk.size / self.sample_rate)
                yield chunk
        finally:
            stop.set()
            streamer.end()
            worker.join()
            if errors:
                log_callback("generation_error", message=str(errors[0]))
                raise errors[0]

    def chunk_to_pcm16(self, chunk):
        with np.errstate(invalid="ignore"):
            return (np.clip(chunk, -1.0, 1.0) * 32767.0).astype(np.int16).tobytes()


async def _startup():
    service = StreamingTTSService(model_path=os.environ["MODEL_PATH"], device=os.environ.get("MODEL_DEVICE", "cuda"))
    service.load()
    app.state.tts_service = service
    app.state.websocket_lock = asyncio.Lock()


class _Lifespan:
    def __init__(self, application):
        self.application = application

    async def __aenter__(self):
        await _startup()

    async def __aexit__(self, *exception):
        return None


app = FastAPI(lifespan=_Lifespan)


def streaming_tts(text, **kwargs):
    yield from app.state.tts_service.stream(text, **kwargs)


def _log(event, **data):
    return json.dumps({"type": "log", "event": event, "data": data, "timestamp": ""})


def _numbers(asked):
    """Scale and steps as the server takes them: whatever is no positive number is replaced without a word (but NaN
    passes).
    """
    try:
        cfg_scale = float(asked.get("cfg", 1.5))
    except ValueError:
        cfg_scale = 1.5
    try:
        steps = int(asked["steps"]) if "steps" in asked else None
    except ValueError:
        steps = None
    return (1.5 if cfg_scale <= 0 else cfg_scale), (None if steps is not None and steps <= 0 else steps)


@app.websocket("/stream")
async def websocket_stream(ws: WebSocket) -> None:  # noqa: C901 - its shape is part of what is doubled
    await ws.accept()
    asked = ws.query_params
    cfg_scale, steps = _numbers(asked)
    lock = app.state.websocket_lock
    if lock.locked():
        await ws.send_text(_log("backend_busy", message="Please wait for the other requests to complete."))
        await ws.close(code=1013, reason="Service busy")
        return

    async with lock:
        waiting = Queue()

        async def flush():
            while True:
                try:
                    message = waiting.get_nowait()
                except Empty:
                    return
                try:
                    await ws.send_text(message)
                except Exception:
                    return

        def note(event, **data):
            waiting.put(_log(event, **data))

        note("backend_request_received", voice=asked.get("voice"), cfg_scale=cfg_scale, inference_steps=steps)
        stop = threading.Event()
        iterator = streaming_tts(
            asked.get("text", ""),
            cfg_scale=cfg_scale,
            inference_steps=steps,
            voice_key=asked.get("voice"),
            log_callback=note,
            stop_event=stop,
        )
        nothing_left, first = object(), True
        try:
            while ws.client_state == WebSocketState.CONNECTED:
                await flush()
                chunk = await asyncio.to_thread(next, iterator, nothing_left)
                if chunk is nothing_left:
                    break
                await ws.send_bytes(app.state.tts_service.chunk_to_pcm16(chunk))
                if first:
                    note("backend_first_chunk_sent")
                    first = False
        except WebSocketDisconnect:
            note("client_disconnected")
        except Exception as failure:
            traceback.print_exc()
            note("backend_error", message=str(failure))
        finally:
            stop.set()
            note("backend_stream_complete")
            await flush()
            try:
                iterator.close()  # on the event loop, and it waits for the generation thread
            except Exception:
                traceback.print_exc()
            if ws.client_state == WebSocketState.CONNECTED:
                try:
                    await ws.close()
                except Exception:
                    traceback.print_exc()


@app.get("/config")
def get_config():
    service = app.state.tts_service
    return {"voices": sorted(service.voice_presets), "default_voice": service.default_voice_key}
