"""Runs in ``opentelemetry-instrument`` itself, before it becomes the program: its entry point group is asked for
modules of variables.

The only place from which a metrics port that is taken can be mended: later the SDK raises, and the launcher instruments
nothing.
"""

import logging

from vibevoice_otel.process import workers

try:
    workers.unless_free()
except Exception:
    logging.getLogger(__name__).warning("whether the metrics port is free could not be seen", exc_info=True)
