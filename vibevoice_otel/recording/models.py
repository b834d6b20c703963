"""The models that have generated in this process: their names, and the revisions at which they were loaded."""

from __future__ import annotations

import contextlib
import re
import weakref
from dataclasses import dataclass
from typing import Any

#: A folder of the hub's cache names the commit that it holds.
_SNAPSHOT = re.compile(r"(?:^|[\\/])snapshots[\\/]([0-9a-f]{40})(?:[\\/]|$)")
#: Characters of a name or a revision that are kept: a label must not grow with a path.
_LONGEST = 200


@dataclass(frozen=True, slots=True)
class Identity:
    """What a model says of itself; None for what it does not say."""

    name: str | None
    revision: str | None


class Models:
    """Remembers each model's identity for as long as the model lives. Any thread may call; nothing takes a lock."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Any], Identity]] = {}

    def of(self, model: Any) -> Identity:
        """The identity of a model that generates now: a dictionary look-up after its first request."""
        known = self._known.get(id(model))
        if known is not None and known[0]() is model:
            return known[1]
        identity = _identify(model)
        for key, (each, _) in list(self._known.items()):
            if each() is None:
                self._known.pop(key, None)
        with contextlib.suppress(TypeError):  # it cannot be referred to weakly: then it is asked each time
            self._known[id(model)] = weakref.ref(model), identity
        return identity

    def there(self) -> list[Identity]:
        """The identities of the models that are still there, in the order of their first requests, each once."""
        return list(dict.fromkeys(identity for each, identity in list(self._known.values()) if each() is not None))


def _identify(model: Any) -> Identity:
    config = getattr(model, "config", None)
    name, commit = getattr(config, "_name_or_path", None), getattr(config, "_commit_hash", None)
    name = name if isinstance(name, str) and name else None
    if not (isinstance(commit, str) and commit):
        found = _SNAPSHOT.search(name or "")
        commit = found.group(1) if found else None
    return Identity(name[:_LONGEST] if name else None, commit[:_LONGEST] if commit else None)
