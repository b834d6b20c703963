"""Services under the launcher and what they send to: the fixtures of the reliability tests."""

from tests.reliability.conftest import sink, start

__all__ = ["sink", "start"]
