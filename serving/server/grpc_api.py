"""TensorFlow Serving's gRPC API: PredictionService and ModelService.

Classify, Regress, MultiInference and HandleReloadConfigRequest answer UNIMPLEMENTED.
"""

import functools
import logging
from collections.abc import Callable
from concurrent import futures
from typing import Any, NoReturn

import grpc
import numpy as np
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from pipeline.errors import InputError
from serving.server.describe import metadata_response, status_response, unknown_field
from serving.server.limits import Limits
from serving.server.models import Repository, Servable
from serving.server.predict import DEFAULT_SIGNATURE, Runner, Signature
from serving.server.status import ServingError, invalid
from serving.server.tensors import proto_from_array, tensors_from_protos

_log = logging.getLogger(__name__)
_MESSAGE_CHARS = 1024


def _answering(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return the servicer method with ServingError made the call's status."""

    @functools.wraps(method)
    def answer(self: Any, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return method(self, request)
        except ServingError as error:
            _abort(context, error)
        except Exception as error:
            _log.exception("%s failed", method.__name__)
            _abort(context, ServingError(grpc.StatusCode.INTERNAL, type(error).__name__))

    return answer


def _abort(context: grpc.ServicerContext, error: ServingError) -> NoReturn:
    """End a call with an error; a long message is cut where TensorFlow Serving cuts it."""
    message = error.message
    if len(message) > _MESSAGE_CHARS:
        message = message[:_MESSAGE_CHARS] + "...TRUNCATED"
    context.abort(error.code, message)
    raise AssertionError("abort does not return")


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predictions and metadata."""

    def __init__(self, repository: Repository, runner: Runner, limits: Limits) -> None:
        self._repository = repository
        self._runner = runner
        self._limits = limits

    @_answering
    def Predict(self, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:  # noqa: N802
        """Run one signature of one model."""
        servable = find_servable(self._repository, request.model_spec)
        name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        if name not in servable.signatures:
            message = f'Serving signature key "{name}" not found.'
            raise ServingError(grpc.StatusCode.FAILED_PRECONDITION, message)
        signature = servable.signatures[name]
        wanted = _wanted_outputs(signature, list(request.output_filter))
        inputs = tensors_from_protos(request.inputs, self._limits.max_message_bytes)
        outputs = self._runner.run(signature, inputs)
        return _predict_response(servable, signature, {key: outputs[key] for key in wanted})

    @_answering
    def GetModelMetadata(  # noqa: N802
        self, request: get_model_metadata_pb2.GetModelMetadataRequest
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Return the signatures of a model."""
        fields = list(request.metadata_field)
        if not fields:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        unknown = unknown_field(fields)
        if unknown is not None:
            raise invalid(f"Metadata field {unknown} is not supported")
        return metadata_response(find_servable(self._repository, request.model_spec), fields)


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """The states of models."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    @_answering
    def GetModelStatus(  # noqa: N802
        self, request: get_model_status_pb2.GetModelStatusRequest
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """Return the state of a model's versions."""
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        spec = request.model_spec
        return status_response(self._repository.statuses(spec.name, _version(spec)))


def find_servable(repository: Repository, spec: model_pb2.ModelSpec) -> Servable:
    """Return the model that a request names.

    Raises:
        ServingError: no name, or no such model, version or label.
    """
    if not spec.name:
        raise invalid("ModelSpec has no name specified.")
    return repository.find(spec.name, _version(spec), spec.version_label)


def _version(spec: model_pb2.ModelSpec) -> int | None:
    return spec.version.value if spec.HasField("version") else None


def _wanted_outputs(signature: Signature, output_filter: list[str]) -> list[str]:
    seen: set[str] = set()
    for name in output_filter:
        if name not in signature.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {name} Outputs expected to be in the "
                f"set {{{','.join(signature.outputs)}}}."
            )
        if name in seen:
            raise invalid(f"duplicate output tensor alias: {name}")
        seen.add(name)
    return output_filter or list(signature.outputs)


def _predict_response(
    servable: Servable, signature: Signature, outputs: dict[str, np.ndarray]
) -> predict_pb2.PredictResponse:
    response = predict_pb2.PredictResponse()
    response.model_spec.name = servable.name
    response.model_spec.version.value = servable.version
    response.model_spec.signature_name = signature.name
    for name, array in outputs.items():
        proto = proto_from_array(array, signature.outputs[name].dtype)
        response.outputs[name].CopyFrom(proto)
    return response


def grpc_server(
    repository: Repository, runner: Runner, limits: Limits, address: str
) -> tuple[grpc.Server, int]:
    """Return a server that is bound to HOST:PORT but not started, and its port.

    Raises:
        InputError: the port is taken or the host is none of this machine's.
    """
    threads = futures.ThreadPoolExecutor(limits.max_accepted_requests, "grpc")
    server = grpc.server(
        threads,
        options=[
            ("grpc.max_receive_message_length", limits.max_message_bytes),
            ("grpc.max_send_message_length", limits.max_message_bytes),
            ("grpc.so_reuseport", 0),  # else two servers share a port without a word
        ],
        maximum_concurrent_rpcs=limits.max_accepted_requests,
    )
    prediction = PredictionService(repository, runner, limits)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(prediction, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(repository), server)
    try:
        return server, server.add_insecure_port(address)
    except RuntimeError as error:
        message = f"--grpc-port: cannot listen at {address}; is it in use? choose another port"
        raise InputError(message) from error
