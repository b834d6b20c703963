"""The command line, ``vibevoice-otel``: each command is a module's ``main(argv)``, imported only when it is called."""

from __future__ import annotations

import importlib
import sys

from vibevoice_otel import __version__

#: Command -> (module, the extra that it needs, what it does).
COMMANDS = {
    "demo": (
        "vibevoice_otel.commands.demo.run",
        "service",
        "speak a few requests and show one as a trace, with the metrics",
    ),
    "serve": (
        "vibevoice_otel.service.__main__",
        "service",
        "the embedded speech service (put opentelemetry-instrument in front)",
    ),
    "doctor": (
        "vibevoice_otel.commands.doctor",
        None,
        "which hooks were found, what is exported where, what is wrong and how to mend it",
    ),
    "insight": ("vibevoice_otel.insight.cli", "insight", "capacity, voices, recommend: answers from Prometheus"),
    "gpu": (
        "vibevoice_otel.commands.gpu",
        "service",
        "sample: how busy the kernels are, by the profiler, in one synthetic request",
    ),
    "load": (
        "vibevoice_otel.commands.load",
        "service",
        "how many streams a service holds, found by driving it, step by step",
    ),
    "probe": ("vibevoice_otel.commands.probe", "service", "a synthetic request a minute, kept out of the objectives"),
}


def _usage() -> str:
    lines = [f"  {name:<9}{about}" for name, (_, _, about) in COMMANDS.items()]
    return "\n".join(
        ["usage: vibevoice-otel COMMAND [OPTIONS]", "", *lines, "", "vibevoice-otel COMMAND --help says more."]
    )


def main(argv: list[str] | None = None) -> int:
    """Run one command; 2 when there is no such command."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(_usage())
        return 0 if arguments else 2
    if arguments[0] in {"-V", "--version", "version"}:
        print(__version__)
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        print(f"error: {name!r} is no command\n\n{_usage()}", file=sys.stderr)
        return 2
    module, extra, _ = COMMANDS[name]
    try:
        run = importlib.import_module(module).main
    except ModuleNotFoundError as missing:
        if missing.name and missing.name.startswith("vibevoice_otel"):
            raise
        hint = f": pip install 'vibevoice-otel[{extra}]'" if extra else ""
        print(f"error: `vibevoice-otel {name}` needs {missing.name}, which is not installed{hint}", file=sys.stderr)
        return 1
    return int(run(rest) or 0)


if __name__ == "__main__":
    sys.exit(main())
