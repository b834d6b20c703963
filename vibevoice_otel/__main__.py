"""``python -m vibevoice_otel``."""

import sys

from vibevoice_otel.cli import main

sys.exit(main())
