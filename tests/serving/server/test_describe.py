"""Responses about models, as TensorFlow Serving's API defines them."""

import json
from typing import Any

from grpc import StatusCode
from tensorflow.core.protobuf import meta_graph_pb2

from serving.server.describe import metadata_json, metadata_response, status_json, unknown_field
from serving.server.loading import Servable
from serving.server.models import VersionStatus

DEFINITION = meta_graph_pb2.SignatureDef(method_name="tensorflow/serving/predict")
SERVABLE = Servable("fox", 12, {"serving_default": DEFINITION}, {}, None)


def test_the_status_of_each_version_has_its_code_by_name() -> None:
    statuses = [
        VersionStatus(3, "AVAILABLE"),
        VersionStatus(2, "END", StatusCode.NOT_FOUND, "no variables"),
    ]
    # The fields and their order are TensorFlow Serving's; int64 is a string in proto3's JSON.
    assert json.loads(status_json(statuses)) == {
        "model_version_status": [
            {"version": "3", "state": "AVAILABLE",
             "status": {"error_code": "OK", "error_message": ""}},
            {"version": "2", "state": "END",
             "status": {"error_code": "NOT_FOUND", "error_message": "no variables"}},
        ]
    }  # fmt: skip


def test_metadata_has_the_signatures_only_if_they_are_requested() -> None:
    assert not metadata_response(SERVABLE, []).metadata
    response = metadata_response(SERVABLE, ["signature_def"])
    assert (response.model_spec.name, response.model_spec.version.value) == ("fox", 12)
    assert response.metadata["signature_def"].type_url.endswith("serving.SignatureDefMap")


def test_metadata_as_json() -> None:
    found: dict[str, Any] = json.loads(metadata_json(SERVABLE))
    assert found["model_spec"]["name"] == "fox"
    assert found["model_spec"]["version"] == "12"
    signatures = found["metadata"]["signature_def"]["signature_def"]
    assert signatures["serving_default"]["method_name"] == "tensorflow/serving/predict"


def test_the_first_unknown_field_is_named() -> None:
    assert unknown_field(["signature_def", "weights", "size"]) == "weights"
    assert unknown_field(["signature_def"]) is None
