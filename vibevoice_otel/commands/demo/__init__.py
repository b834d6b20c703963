"""``vibevoice-otel demo``: the embedded service under the launcher, real requests, and what was seen of them, in a
terminal.
"""
