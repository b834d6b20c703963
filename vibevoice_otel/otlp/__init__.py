"""Records to OTLP bytes. Knows no SDK."""
