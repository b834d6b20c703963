"""``python -m tools.kubernetes``: write deploy/kubernetes/rendered from the chart; nothing where helm is not built."""

from __future__ import annotations

import sys

from tools import toolchain
from tools.kubernetes import chart


def main() -> int:
    """0 when written, or when there is no helm to write with."""
    if toolchain.path("helm") is None:
        print("helm is not built (make tools): deploy/kubernetes/rendered is as it was")
        return 0
    chart.RENDERED.mkdir(exist_ok=True)
    for name in chart.examples():
        target, text = chart.path(name), chart.committed(name)
        if not target.exists() or target.read_text() != text:
            target.write_text(text)
            print(target.relative_to(chart.ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
