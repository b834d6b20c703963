"""All private state of the OpenTelemetry SDK that is read or set."""
