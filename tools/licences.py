"""The licences of what is installed beside vibevoice-otel, one a line; ends with 1 when one is unknown or not
permissive enough to ship.

python tools/licences.py

pip-licenses 5.5.5 cannot say this: its --allow-only lets "A AND B" pass when either is allowed, and it leaves packages
out by exact name alone, which NVIDIA's two dozen change with each torch.
"""

from __future__ import annotations

import re
import sys
from importlib import metadata

#: Licences under which a dependency may be used by, and shipped in an image with, an Apache-2.0 project.
ALLOWED = re.compile(
    r"apache|bsd|\bmit\b|\bisc\b|\bpsf\b|python software "
    r"foundation|\bcnri|mpl|mozilla|unlicense|\bcc0\b|zlib|hpnd|public domain"
    r"|boost|\bbsl-1\.0|dfsg approved",  # a quality, said beside the licence
    re.IGNORECASE,
)
#: Looked at by hand: what its metadata says is more than what is meant.
READ = {
    "docutils": "public domain but for a few files under BSD, and one of an editor's mode under GPL, which nothing "
    "here imports",
    "waitress": "Zope Public License 2.1, permissive as BSD's; a server that tests run, which is not shipped",
}
#: NVIDIA's redistributable CUDA libraries, which torch's CUDA wheels bring (its CPU wheels do not), are under NVIDIA's
#: own terms.
EXCEPTED = ("cuda-", "nvidia-")


def allowed(terms: str) -> bool:
    """Whether all of it may be used: each part of ``a AND b`` (and of several classifiers), one part of ``a OR b``."""
    parts = re.split(r"\s+AND\s+|;", terms.replace("(", " ").replace(")", " "))
    return all(any(ALLOWED.search(choice) for choice in re.split(r"\s+OR\s+", part)) for part in parts)


def licence(distribution: metadata.Distribution) -> str:
    """What the distribution says of itself: SPDX expression, else classifiers,
    else the first line of the free field.
    """
    said = distribution.metadata
    classifiers = [
        each.rsplit(" :: ", 1)[-1] for each in said.get_all("Classifier") or () if each.startswith("License ::")
    ]
    free = (said.get("License") or "").strip().splitlines()
    return said.get("License-Expression") or "; ".join(classifiers) or (free[0][:80] if free else "unknown")


def main() -> int:
    rows = sorted(
        {(d.metadata["Name"], d.version, licence(d)) for d in metadata.distributions()}, key=lambda row: row[0].lower()
    )
    odd = [row for row in rows if not allowed(row[2]) and not row[0].startswith(EXCEPTED) and row[0] not in READ]
    for name, version, terms in rows:
        print(f"{name:<45} {version:<16} {terms}{'; ' + READ[name] if name in READ else ''}")
    for name, version, terms in odd:
        print(
            f"error: {name} {version} is under {terms!r}, which is not on the list of allowed licences", file=sys.stderr
        )
    return 1 if odd else 0


if __name__ == "__main__":
    sys.exit(main())
