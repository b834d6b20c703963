"""What our tests and images are made of: pinned with hashes, under licences that allow it. Vulnerabilities: `make
audit`.
"""

from __future__ import annotations

import re
from importlib import metadata

import pytest

from tools import licences
from tools.toolchain.recipes import ROOT


@pytest.mark.parametrize("name", ["service", "test", "audit"])
def test_every_dependency_is_pinned_with_hashes(name: str) -> None:
    """Each requirement has one exact version and at least one sha256; nothing is taken from an address."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text().replace("\\\n", " ")
    found = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert len(found) > 10
    for line in found:
        assert re.match(r"[A-Za-z0-9._-]+(\[[a-z,]+\])?==[^\s;]+( ; [^-]+)?\s+--hash=sha256:[0-9a-f]{64}", line), line[
            :100
        ]
        assert "://" not in line


def test_what_installs_them_asks_for_the_hashes() -> None:
    """`make` and the image install with --require-hashes; the audit too."""
    for file in ("tools/bootstrap.py", "Dockerfile", "Makefile"):
        assert "--require-hashes" in (ROOT / file).read_text(), file
    # The one exception: torch's CPU wheels come from an index of their own, where hashes differ. Its version is the
    # pinned one.
    without = [
        line
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if "pip install" in line and "--require-hashes" not in line
    ]
    assert [bool(re.search(r"torch==", line)) for line in without] == [True]
    for file in ("tools/bootstrap.py", "Dockerfile"):
        assert "--no-build-isolation" in (ROOT / file).read_text(), "this package itself is built by the pinned backend"


def test_every_licence_is_listed_and_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    """Everything that is installed here is in the list, and nothing in it forbids what we do with it."""
    assert licences.main() == 0
    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines()}
    assert listed == {each.metadata["Name"] for each in metadata.distributions()}
    print(f"{len(listed)} distributions")


@pytest.mark.parametrize(
    ("terms", "fine"),
    [
        ("MIT", True), ("Apache-2.0 OR GPL-2.0-only", True), ("BSD-3-Clause AND MIT", True),
        ("(MIT OR Apache-2.0) AND PSF-2.0", True),
        ("MIT AND GPL-3.0-only", False), (("GNU General Public License v3 "
                                          "(GPLv3)"), False), ("BUSL-1.1", False), ("BSL 1.1", False),
        (("BSD License; GNU General Public License "
         "(GPL)"), False), ("AGPL-3.0", False), ("unknown", False), ("SSPL-1.0", False),
        ("LGPL-2.1-only", False), ("CC-BY-NC-4.0", False), ("BSL-1.0", True),
    ],
)  # fmt: skip
def test_a_licence_is_judged_whole(terms: str, fine: bool) -> None:
    """One allowed part does not excuse another that is not."""
    assert licences.allowed(terms) is fine
