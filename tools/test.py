"""Runs the tests: those that bear company on every core, then those that measure time alone.

    python -m tools.test [--ci] [pytest's own options and paths]

With --ci, tests that failed run once more, alone, to be named: one that then passes is flaky. It stays a failure unless
tests/flaky.txt lists it; that list may only shrink.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FAILED = ROOT / ".pytest_cache" / "v" / "cache" / "lastfailed"
FLAKY = ROOT / "tests" / "flaky.txt"
#: pytest's exit codes.
PASSED, TESTS_FAILED, NO_TESTS = 0, 1, 5


def pytest(marks: str, *arguments: str) -> int:
    command = [sys.executable, "-m", "pytest", "-m", f"not soak and {marks}", *arguments]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def phase(title: str, marks: str, *arguments: str) -> tuple[int, set[str]]:
    """Run the tests of ``marks``; return pytest's exit code and the ids of those that failed."""
    FAILED.unlink(missing_ok=True)
    began = time.monotonic()
    print(f"\n-- {title}", flush=True)
    code = pytest(marks, *arguments)
    print(f"-- {title}: {time.monotonic() - began:.0f} s", flush=True)
    failed = set(json.loads(FAILED.read_text())) if FAILED.exists() else set()
    return (PASSED if code == NO_TESTS else code), failed


def main(arguments: list[str]) -> int:
    in_ci = "--ci" in arguments
    rest = [each for each in arguments if each != "--ci"]
    workers = os.environ.get("WORKERS") or str(os.cpu_count() or 1)
    together = ("-n", workers, "--dist", "loadfile") if workers not in {"0", "1"} else ()
    codes: list[int] = []
    failed: set[str] = set()
    for title, marks, options in (
        (f"tests, {workers} at a time", "not serial", together),
        ("tests that measure time, alone", "serial", ()),
    ):
        code, ids = phase(title, marks, *options, *rest)
        codes.append(code)
        failed |= ids
    worst = max(codes)
    if not in_ci or worst != TESTS_FAILED or not failed:
        return worst
    return _name_the_flaky(failed)


def _name_the_flaky(failed: set[str]) -> int:
    _, again = phase("what failed, once more and alone, to name the flaky", "(serial or not serial)", *sorted(failed))
    known = {line.split("  #")[0].strip() for line in FLAKY.read_text().splitlines() if line and line[0] != "#"}
    flaky = failed - again
    for test in sorted(flaky):
        print(f"flaky{'' if test in known else ', and not listed in tests/flaky.txt'}: {test}")
    for test in sorted(again):
        print(f"failed twice: {test}")
    return TESTS_FAILED if again or flaky - known else PASSED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
