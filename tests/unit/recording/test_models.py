"""What a model says of itself, and how long it is remembered."""

from __future__ import annotations

import gc
from types import SimpleNamespace
from typing import Any

import pytest

from vibevoice_otel.recording.models import Identity, Models

COMMIT = "6bce5f06044837fe6d2c5d7a71a84f0416bd57e4"


class Model:
    """Knows its configuration, as a transformers model does."""

    def __init__(self, **config: Any) -> None:
        self.config = SimpleNamespace(**config)


@pytest.mark.parametrize(
    ("config", "name", "revision"),
    [
        ({"_name_or_path": "microsoft/VibeVoice-1.5B", "_commit_hash": COMMIT}, "microsoft/VibeVoice-1.5B", COMMIT),
        (
            {"_name_or_path": f"/cache/models--x--y/snapshots/{COMMIT}"},
            f"/cache/models--x--y/snapshots/{COMMIT}",
            COMMIT,
        ),
        ({"_name_or_path": "/weights/tuned", "_commit_hash": None}, "/weights/tuned", None),
        ({"_name_or_path": ""}, None, None),
        ({}, None, None),
        ({"_name_or_path": 7, "_commit_hash": object()}, None, None),
    ],
)
def test_a_model_is_known_by_its_configuration(config: dict[str, Any], name: str | None, revision: str | None) -> None:
    """The hub's commit, or the snapshot's folder; a plain folder has no revision, and none is made up."""
    assert Models().of(Model(**config)) == Identity(name, revision)


def test_a_model_that_is_gone_is_told_no_more() -> None:
    """After a reload the new revision stands alone; two models at once stand side by side, in order."""
    models = Models()
    old, other = Model(_name_or_path="m", _commit_hash="1"), Model(_name_or_path="n")
    for model in (old, other, old):
        models.of(model)
    assert models.there() == [Identity("m", "1"), Identity("n", None)]
    del old, model
    gc.collect()
    models.of(Model(_name_or_path="m", _commit_hash="2"))
    assert Identity("m", "1") not in models.there()


def test_nothing_grows_with_models() -> None:
    """A thousand models that came and went leave nothing, and a long path no long label."""
    models = Models()
    for number in range(1000):
        models.of(Model(_name_or_path=f"{number}" * 500))
    last = models.of(Model(_name_or_path="x" * 500))
    assert len(last.name or "") == 200
    assert len(models._known) <= 2
