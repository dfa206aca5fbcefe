"""Responses about models: status and metadata, as protobuf messages and as JSON."""

import json
from typing import Any

from google.protobuf import json_format
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from pipeline.storage.strict_json import JsonObject
from serving.server.loading import Servable
from serving.server.models import VersionStatus

_SIGNATURES = "signature_def"  # the only metadata field of the API


def status_response(
    statuses: list[VersionStatus],
) -> get_model_status_pb2.GetModelStatusResponse:
    """Return the states of a model's versions as a message."""
    response = get_model_status_pb2.GetModelStatusResponse()
    for status in statuses:
        added = response.model_version_status.add(version=status.version, state=status.state)
        added.status.SetInParent()
        added.status.error_code = status.code.value[0]
        added.status.error_message = status.message
    return response


def status_json(statuses: list[VersionStatus]) -> bytes:
    """Return the states of a model's versions as a REST response body."""
    return _as_json(_plain(status_response(statuses)))


def metadata_response(
    servable: Servable, fields: list[str]
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """Return a model's signatures as a message, if they are among the requested fields."""
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = servable.name
    response.model_spec.version.value = servable.version
    if _SIGNATURES in fields:
        response.metadata[_SIGNATURES].Pack(_signature_map(servable))
    return response


def unknown_field(fields: list[str]) -> str | None:
    """Return the first requested metadata field that does not exist; None if all exist."""
    return next((field for field in fields if field != _SIGNATURES), None)


def metadata_json(servable: Servable) -> bytes:
    """Return a model's signatures as a REST response body."""
    spec = _plain(metadata_response(servable, []).model_spec)
    return _as_json(
        {"model_spec": spec, "metadata": {_SIGNATURES: _plain(_signature_map(servable))}}
    )


def _signature_map(servable: Servable) -> get_model_metadata_pb2.SignatureDefMap:
    return get_model_metadata_pb2.SignatureDefMap(signature_def=servable.definitions)


def _plain(message: Any) -> JsonObject:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _as_json(content: JsonObject) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
