"""OpenTelemetry tracing and metrics for VibeVoice speech synthesis."""

__version__ = "0.1.0"
