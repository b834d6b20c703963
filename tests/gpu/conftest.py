"""Tests that need a real card. Elsewhere they are skipped, and say so: the same questions are asked of a fake in
tests/unit/gpu.
"""

from __future__ import annotations

import pytest

from benchmarks import gpu
from benchmarks.gpu import NEEDED_BYTES, Subject

FRAMES = 12


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/gpu/" in item.path.as_posix():
            item.add_marker(pytest.mark.gpu)
            item.add_marker(pytest.mark.timeout(900))
            # A card brings warnings that no machine without one foresees (torch's own, once, that its synchronisation
            # debug mode is a prototype): they are shown here, and fail nothing.
            item.add_marker(
                pytest.mark.filterwarnings("default", "error::pytest.PytestUnhandledThreadExceptionWarning")
            )


@pytest.fixture(scope="session", autouse=True)
def card() -> int:
    """Bytes free on the first CUDA device."""
    import torch

    missing = gpu.no_card()
    if missing is not None:
        pytest.skip(missing)
    return int(torch.cuda.mem_get_info(0)[0])


@pytest.fixture(scope="session")
def subject(card: int) -> Subject:
    """The 1.5B architecture where it fits, else the demo's, warm: kernels are loaded for every length, and the profiler
    is at hand.
    """
    found = Subject.build("cuda", tiny=card < NEEDED_BYTES)
    found.speak(FRAMES)
    gpu.profiled(found, 1)
    return found
