"""Tests that need a real card. Elsewhere they are skipped, and say so: the same questions are asked of a fake in tests/unit/gpu."""

from __future__ import annotations

import pytest

from benchmarks.gpu import NEEDED_BYTES, Subject


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/gpu/" in item.path.as_posix():
            item.add_marker(pytest.mark.gpu)
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session", autouse=True)
def card() -> int:
    """Bytes free on the first CUDA device."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a GPU: torch finds no CUDA device")
    return int(torch.cuda.mem_get_info(0)[0])


@pytest.fixture(scope="session")
def subject(card: int) -> Subject:
    """The 1.5B architecture where it fits, else the demo's, warm."""
    found = Subject.build("cuda", tiny=card < NEEDED_BYTES)
    found.speak(4)
    return found
