"""A process of its own: its service.instance.id, and its counts after a fork."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterable, Mapping

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, Resource

from vibevoice_otel import semconv

#: Attribute of a resource: the id that we gave it.
OURS = "_vibevoice_otel_instance_id"


def begin_anew(meter_provider: object) -> bool:
    """Forget what our instruments have counted: in a forked child it is the parent's, and would be told twice. The host's stay as they are.

    Locks are replaced: a thread of the parent's may have held them. False where the SDK is not as known.
    """
    storages = getattr(getattr(meter_provider, "_measurement_consumer", None), "_reader_storages", None)
    if not isinstance(storages, Mapping):
        return False
    for storage in storages.values():
        for instrument, matches in getattr(storage, "_instrument_view_instrument_matches", {}).items():
            if getattr(getattr(instrument, "instrumentation_scope", None), "name", None) == semconv.SCOPE:
                for match in matches:
                    match._lock, match._attributes_aggregation = threading.Lock(), {}
    return True


def ensure_instance_id(providers: Iterable[object]) -> None:
    """Give each provider's resource a service.instance.id of this process where it has none (SDKs before 1.45 set none).

    The resource is changed in place, for tracers and meters that were made before hold on to it.
    """
    identity = str(uuid.uuid4())
    for provider in providers:
        resource = getattr(provider, "resource", None) or getattr(
            getattr(provider, "_sdk_config", None), "resource", None
        )
        if not isinstance(resource, Resource) or resource.attributes.get(SERVICE_INSTANCE_ID) != getattr(
            resource, OURS, None
        ):
            continue  # the operator's, or the SDK's own
        resource._attributes = BoundedAttributes(
            attributes={**resource.attributes, SERVICE_INSTANCE_ID: identity}, immutable=True
        )
        setattr(resource, OURS, identity)
