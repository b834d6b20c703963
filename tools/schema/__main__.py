"""``python -m tools.schema``."""

import sys

from tools.schema import main

sys.exit(main())
