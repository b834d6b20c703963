"""The embedded service: a real VibeVoice model behind the upstream realtime server's WebSocket interface.

It knows nothing of the instrumentation, and is observed as a foreign service is: by the launcher.
"""
