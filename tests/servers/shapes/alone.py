"""Generations without a web request, as a script and a gRPC server make them:
``python -m shapes.alone script | returned | grpc``.

Prints the samples that were made.
"""

import sys
from concurrent.futures import ThreadPoolExecutor

from shapes.speaking import Speaker
from vibevoice.modular.streamer import AudioStreamer

TEXT = "Good evening, this is one."


def speak(speaker, text):
    """As LocalAI's backend does: prepare, generate into a streamer, no web framework."""
    prompt = speaker.voice("en-Carter_man")
    streamer = AudioStreamer(batch_size=1, stop_signal=None, timeout=None)
    speaker.generate(speaker.inputs(text, prompt), prompt, streamer)
    return sum(chunk.numel() for chunk in streamer.get_stream(0))


def returned(speaker, text):
    """As a script does that waits for all of it: no streamer, the audio is what ``generate`` returns."""
    prompt = speaker.voice("en-Carter_man")
    result = speaker.generate(speaker.inputs(text, prompt), prompt, None)
    return sum(each.numel() for each in result.speech_outputs)


def over_grpc(speaker):
    """One unary call to a real gRPC server on a loopback port."""
    import grpc

    def tts(request, _context):
        return str(speak(speaker, request.decode())).encode()

    handler = grpc.method_handlers_generic_handler("Backend", {"TTS": grpc.unary_unary_rpc_method_handler(tts)})
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer = channel.unary_unary("/Backend/TTS")(TEXT.encode(), timeout=60, wait_for_ready=True)
    server.stop(1).wait()
    return int(answer)


SPEAK = {"script": speak, "returned": returned}

if __name__ == "__main__":
    speaker = Speaker()
    made = over_grpc(speaker) if sys.argv[1] == "grpc" else SPEAK[sys.argv[1]](speaker, TEXT)
    print(f"samples {made}", flush=True)
