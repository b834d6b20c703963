"""python -m tools.toolchain [SET ...] [--path PROGRAM]."""

from __future__ import annotations

import argparse
import sys

from tools.toolchain import cache
from tools.toolchain.build import BuildFailedError, build, lock
from tools.toolchain.go import GoMissingError
from tools.toolchain.recipes import BY_NAME, PROGRAMS, RECIPES


def main(argv: list[str] | None = None) -> int:
    """Build what is missing, or print where a program lies; 1 when it cannot be had."""
    parser = argparse.ArgumentParser(prog="python -m tools.toolchain", description=__doc__)
    known = ", ".join(BY_NAME)
    parser.add_argument(
        "sets",
        nargs="*",
        metavar="SET",
        choices=[[], *BY_NAME],
        help=f"what to build (default: all but those of --platform): {known}",
    )
    parser.add_argument("--platform", action="store_true", help="build what `make e2e-platform` runs against")
    parser.add_argument("--path", choices=sorted(PROGRAMS), help="print where this program lies, building nothing")
    parser.add_argument("--built", action="store_true", help="with --platform: build nothing; 1 where one is missing")
    parser.add_argument("--lock", action="store_true", help="write collector/go.mod and go.sum anew from builder.yaml")
    arguments = parser.parse_args(argv)
    try:
        if arguments.lock:
            lock()
        elif arguments.path:
            print(cache.require(arguments.path))
        elif arguments.built:
            return int(any(cache.path(name) is None for name, recipe in PROGRAMS.items() if recipe.platform))
        else:
            platform = [recipe.name for recipe in RECIPES if recipe.platform] if arguments.platform else []
            build([*arguments.sets, *platform] or None)
            print(f"toolchain: ready in {cache.root() / 'bin'}")
    except (BuildFailedError, GoMissingError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
