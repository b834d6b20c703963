"""Ports for tests and stacks: given once, to every user of a machine."""

from __future__ import annotations

import multiprocessing
import os

from tools.ports import free_port


def _as_another_user(answer: multiprocessing.Queue[object]) -> None:
    try:
        os.setgid(65534)
        os.setuid(65534)
        answer.put(free_port())
    except OSError as error:
        answer.put(error)


def test_another_user_gets_a_port_after_root() -> None:
    """`make stack` works for whoever starts it, whatever another user started on the machine before."""
    assert free_port()
    if os.getuid() != 0:  # only root can become another
        return
    context = multiprocessing.get_context("fork")
    answer = context.Queue()
    process = context.Process(target=_as_another_user, args=(answer,))
    process.start()
    found = answer.get(timeout=120)
    process.join(120)
    assert isinstance(found, int), found
