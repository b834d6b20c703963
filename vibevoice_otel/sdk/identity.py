"""A process of its own: its service.instance.id, and its counts after a fork."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterable, Mapping

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk import resources as sdk_resources
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, Resource

from vibevoice_otel import semconv

#: Attribute of a resource: the id that we gave it.
OURS = "_vibevoice_otel_instance_id"


def begin_anew(meter_provider: object) -> None:
    """Forget what our instruments have counted: in a forked child it is the parent's, and would be told twice. The
    host's stay as they are.

    Locks are replaced: a thread of the parent's may have held them. Nothing is done where the SDK's internals are
    unsupported.
    """
    storages = getattr(getattr(meter_provider, "_measurement_consumer", None), "_reader_storages", None)
    if not isinstance(storages, Mapping):
        return
    for storage in storages.values():
        for instrument, matches in getattr(storage, "_instrument_view_instrument_matches", {}).items():
            if getattr(getattr(instrument, "instrumentation_scope", None), "name", None) == semconv.SCOPE:
                for match in matches:
                    match._lock, match._attributes_aggregation = threading.Lock(), {}


def resources(providers: Iterable[object]) -> list[Resource]:
    """The resource of each provider, each once."""
    found: dict[int, Resource] = {}
    for provider in providers:
        resource = getattr(provider, "resource", None) or getattr(provider, "_resource", None)
        resource = resource or getattr(getattr(provider, "_sdk_config", None), "resource", None)
        if isinstance(resource, Resource):
            found[id(resource)] = resource
    return list(found.values())


def given_id(providers: Iterable[object]) -> str:
    """The service.instance.id that was set from outside; nothing where the SDK or this package made it up."""
    for resource in resources(providers):
        value = str(
            resource.attributes.get(semconv.R_GIVEN_INSTANCE.key) or resource.attributes.get(SERVICE_INSTANCE_ID) or ""
        )
        own = (getattr(resource, OURS, None), getattr(sdk_resources, "_service_instance_id", None))
        return "" if value in own else value
    return ""


def number(providers: Iterable[object], given: str, part: str) -> None:
    """Have each provider's resource be instance ``given.part``, with what was given beside it.

    After a fork the SDK (1.45) has put an id of its own in place of the given one.
    """
    for resource in resources(providers):
        _change(resource, {SERVICE_INSTANCE_ID: f"{given}.{part}", semconv.R_GIVEN_INSTANCE.key: given})


def _change(resource: Resource, attributes: Mapping[str, str]) -> None:
    """In place, for tracers and meters that were made before hold on to it."""
    resource._attributes = BoundedAttributes(attributes={**resource.attributes, **attributes}, immutable=True)


def ensure_instance_id(providers: Iterable[object]) -> None:
    """Give each provider's resource a service.instance.id of this process where it has none (SDKs before 1.45 set
    none).
    """
    identity = str(uuid.uuid4())
    for resource in resources(providers):
        # Another than ours is the operator's, or the SDK's own.
        if resource.attributes.get(SERVICE_INSTANCE_ID) == getattr(resource, OURS, None):
            _change(resource, {SERVICE_INSTANCE_ID: identity})
            setattr(resource, OURS, identity)
