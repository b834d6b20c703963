"""What keeps telemetry from doing harm: bounded labels, redaction, sampling."""
