"""``python -m vibevoice_otel``."""

import sys

from vibevoice_otel.commands.cli import main

sys.exit(main())
