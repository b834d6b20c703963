"""What the telemetry costs: one module a question, each run by ``python -m benchmarks.NAME`` (``make bench`` runs them
all).
"""
