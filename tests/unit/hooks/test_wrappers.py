"""Notes around a foreign function: it is called once, its result and its exceptions are its own,
whatever a note meets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from vibevoice_otel.adapters import upstream
from vibevoice_otel.hooks.wrappers import noted
from vibevoice_otel.recording.clock import Anchor, now
from vibevoice_otel.recording.timeline import Timeline, bound, thread


class Watched:
    """A function hooked by ``noted``, and what happened, in order."""

    def __init__(
        self,
        *,
        before: Any = 7,
        breaks: str = "",
        raises: BaseException | None = None,
        find: Callable[..., Any] | None = None,
    ) -> None:
        self.events: list[object] = []
        self.failed: list[BaseException] = []
        self._before, self._breaks, self._raises = before, breaks, raises
        self.call = noted(self._original, self._note_before, self._note_after, self.failed.append, thread, find)

    def _original(self, word: str, *, loud: bool = False) -> str:
        self.events.append((word, loud))
        if self._raises is not None:
            raise self._raises
        return word.upper()

    def _note_before(self, _timeline: Timeline, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.events.append(("before", args, kwargs))
        if self._breaks == "before":
            raise ValueError
        return self._before

    def _note_after(self, _timeline: Timeline, token: Any, result: Any) -> None:
        self.events.append(("after", token, result))
        if self._breaks == "after":
            raise ValueError


def timeline() -> Timeline:
    return Timeline(1, Anchor.take(), now())


def test_notes_lie_around_the_call() -> None:
    """Before hears the arguments, after hears what before gave it and the result."""
    one = Watched()
    with bound(timeline()):
        assert one.call("a", loud=True) == "A"
    assert one.events == [("before", ("a",), {"loud": True}), ("a", True), ("after", 7, "A")]
    assert not one.failed


def test_outside_a_request_nothing_is_noted() -> None:
    """The function is called, and that is all."""
    one = Watched()
    assert one.call("a") == "A"
    assert one.events == [("a", False)]


def test_a_before_that_returns_nothing_wants_no_after() -> None:
    """None says that there is nothing to note."""
    one = Watched(before=None)
    with bound(timeline()):
        assert one.call("a") == "A"
    assert one.events == [("before", ("a",), {}), ("a", False)]


@pytest.mark.parametrize("breaks", ["before", "after"])
@pytest.mark.parametrize(
    "raises", [None, KeyError("its own"), KeyboardInterrupt()], ids=["well", "failing", "interrupted"]
)
def test_a_mistake_of_ours_stays_ours(breaks: str, raises: BaseException | None) -> None:
    """The original is called once; its result, or the very exception that it raised, reaches the caller; the mistake is
    told.
    """
    one = Watched(breaks=breaks, raises=raises)
    with bound(timeline()):
        if raises is None:
            assert one.call("a") == "A"
        else:
            with pytest.raises(type(raises)) as raised:
                one.call("a")
            assert raised.value is raises
    assert [event for event in one.events if event == ("a", False)] == [("a", False)]
    assert [type(error) for error in one.failed] == [ValueError]


def test_an_exception_of_the_originals_is_noted_without_a_result() -> None:
    """A call that fails has taken its time too."""
    one = Watched(raises=KeyError("its own"))
    with bound(timeline()), pytest.raises(KeyError):
        one.call("a")
    assert one.events[-1] == ("after", 7, None)


def test_the_request_may_be_found_by_the_arguments() -> None:
    """Where another thread than the generating one calls; a search that fails costs the note."""
    own = timeline()
    found = Watched(find=lambda word: own if word == "a" else None)
    assert (found.call("a"), found.call("b")) == ("A", "B")
    assert [event for event in found.events if event[0] == "after"] == [("after", 7, "A")]  # type: ignore[index]
    lost = Watched(find=lambda word: word[5])
    assert lost.call("a") == "A"
    assert [type(error) for error in lost.failed] == [IndexError]


class Tensor:
    """What may not be compared on the model's thread: that would wait for the device."""

    def __ne__(self, other: object) -> bool:
        raise AssertionError

    __hash__ = None  # type: ignore[assignment]


def test_a_frame_compares_no_tensor() -> None:
    """A guidance scale that stands on a device is left alone; a number is taken over."""
    one = timeline()
    model = type("Model", (), {"ddpm_inference_steps": Tensor()})
    upstream._frame_begins(one.runs[0], (model, None, None, Tensor()), {})
    assert (one.used.steps, one.used.cfg, len(one.runs[0].frames)) == (None, None, 1)
    model.ddpm_inference_steps = 5  # type: ignore[assignment]
    upstream._frame_begins(one.runs[0], (model, None, None), {"cfg_scale": 2})
    assert (one.used.steps, one.used.cfg) == (5, 2.0)


def test_a_generation_that_failed_leaves_nothing_to_the_next() -> None:
    """A pass was prepared and never ran, so the first pass of the request's next generation begins by itself."""
    one = timeline()
    with pytest.raises(ValueError, match="no"), bound(one) as run:
        upstream._pass_prepared(run, (), {})
        raise ValueError("no")
    again = now()
    with bound(one) as run:
        upstream._pass_prepared(run, (), {})
        assert run.pass_start >= again
