"""The other way to start the server: as a script, which loads the app as web.app."""

import argparse
import os

import uvicorn


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=3000)
    parser.add_argument("--model_path", default="microsoft/VibeVoice-Realtime-0.5B")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--reload", action="store_true")
    arguments = parser.parse_args()
    os.environ["MODEL_PATH"] = arguments.model_path
    os.environ["MODEL_DEVICE"] = arguments.device
    uvicorn.run("web.app:app", host="127.0.0.1", port=arguments.port, reload=arguments.reload)


if __name__ == "__main__":
    main()
