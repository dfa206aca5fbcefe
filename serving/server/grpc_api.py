"""TensorFlow Serving's gRPC API: PredictionService and ModelService."""

import functools
import logging
from collections.abc import Callable
from concurrent import futures
from typing import Any, NoReturn

import grpc
import numpy as np
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from pipeline.errors import InputError
from serving.server.answer_size import check_answer
from serving.server.backend import Backend
from serving.server.config_files import models_from_proto
from serving.server.connections import connection_limit
from serving.server.describe import metadata_response, status_response, unknown_field
from serving.server.examples import answering_spec, classify, multi_inference, regress
from serving.server.grpc_admission import Admission, CallClocks, thread_count
from serving.server.limits import Limits
from serving.server.loading import Servable
from serving.server.models import Repository
from serving.server.signature_spec import ServableSignature
from serving.server.status import ServingError, invalid, shortened
from serving.server.tensors import arrays_from_protos, message_bytes, write_array
from serving.tf_serving import DEFAULT_SIGNATURE

_log = logging.getLogger(__name__)
_MESSAGE_CHARS = 1024
_ENTRYPOINT = "GRPC"  # in metrics
_HANDSHAKE_MS = 2000
_MAX_STREAMS = 128  # concurrent streams per connection; a client that needs more opens another


def _answering(method: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a servicer method: a ServingError becomes the call's status."""

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
    """End a call with an error; truncate long messages like TensorFlow Serving."""
    message = error.message
    if len(message) > _MESSAGE_CHARS:
        message = message[:_MESSAGE_CHARS] + "...TRUNCATED"
    context.abort(error.code, message)
    raise AssertionError("abort does not return")


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predictions and metadata."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    @_answering
    def Predict(self, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:  # noqa: N802
        """Run one signature of one model."""
        with self._backend.counted(request.model_spec.name, "Predict", _ENTRYPOINT):
            servable = find_servable(self._backend.repository, request.model_spec)
            name = request.model_spec.signature_name or DEFAULT_SIGNATURE
            if name not in servable.signatures:
                message = f'Serving signature key "{shortened(name)}" not found.'
                raise ServingError(grpc.StatusCode.FAILED_PRECONDITION, message)
            signature = servable.signatures[name]
            requested = _requested_outputs(signature, list(request.output_filter))
            runner = self._backend.runner
            with self._backend.budget.turn(request.ByteSize()):
                inputs = arrays_from_protos(
                    signature, request.inputs, runner.max_input_bytes, runner.most_rows(signature)
                )
            outputs = runner.run(signature, inputs)
            outputs = {key: outputs[key] for key in requested}
            size_bytes = sum(map(message_bytes, outputs.values()))
            check_answer(size_bytes, runner.max_answer_bytes)
            with self._backend.budget.turn(size_bytes):
                return _predict_response(servable, signature, outputs)

    @_answering
    def Classify(  # noqa: N802
        self, request: classification_pb2.ClassificationRequest
    ) -> classification_pb2.ClassificationResponse:
        """Classify examples."""
        with self._backend.counted(request.model_spec.name, "Classify", _ENTRYPOINT):
            servable = find_servable(self._backend.repository, request.model_spec)
            name = request.model_spec.signature_name or DEFAULT_SIGNATURE
            result = classify(servable, name, request.input, self._backend)
            return classification_pb2.ClassificationResponse(
                result=result, model_spec=answering_spec(servable, name)
            )

    @_answering
    def Regress(  # noqa: N802
        self, request: regression_pb2.RegressionRequest
    ) -> regression_pb2.RegressionResponse:
        """Predict a number for each example."""
        with self._backend.counted(request.model_spec.name, "Regress", _ENTRYPOINT):
            servable = find_servable(self._backend.repository, request.model_spec)
            name = request.model_spec.signature_name or DEFAULT_SIGNATURE
            result = regress(servable, name, request.input, self._backend)
            return regression_pb2.RegressionResponse(
                result=result, model_spec=answering_spec(servable, name)
            )

    @_answering
    def MultiInference(  # noqa: N802
        self, request: inference_pb2.MultiInferenceRequest
    ) -> inference_pb2.MultiInferenceResponse:
        """Classify and regress the same examples."""
        if not request.tasks:
            raise invalid("Inference request must have at least one task")
        spec = request.tasks[0].model_spec
        with self._backend.counted(spec.name, "MultiInference", _ENTRYPOINT):
            servable = find_servable(self._backend.repository, spec)
            return multi_inference(servable, request, self._backend)

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
            raise invalid(f"Metadata field {shortened(unknown)} is not supported")
        servable = find_servable(self._backend.repository, request.model_spec)
        return metadata_response(servable, fields)


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """Model status and configuration."""

    def __init__(self, repository: Repository, limits: Limits) -> None:
        self._repository = repository
        self._limits = limits

    @_answering
    def GetModelStatus(  # noqa: N802
        self, request: get_model_status_pb2.GetModelStatusRequest
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """Return the state of a model's versions."""
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        spec = request.model_spec
        statuses = self._repository.statuses(spec.name, _version(spec), spec.version_label)
        return status_response(statuses)

    @_answering
    def HandleReloadConfigRequest(  # noqa: N802
        self, request: model_management_pb2.ReloadConfigRequest
    ) -> model_management_pb2.ReloadConfigResponse:
        """Replace the set of served models."""
        if not self._limits.allow_reload:
            message = "Reloading is off: start the server with --allow-reload to allow it"
            raise ServingError(grpc.StatusCode.PERMISSION_DENIED, message)
        count, most = len(request.config.model_config_list.config), self._limits.max_models
        if count > most:
            raise invalid(f"model_config_list: expected at most {most} models, got {count}")
        try:
            configs = models_from_proto(request.config)
        except InputError as error:
            raise invalid(shortened(str(error))) from error
        self._repository.reload(configs)
        response = model_management_pb2.ReloadConfigResponse()
        response.status.SetInParent()
        return response


def find_servable(repository: Repository, spec: model_pb2.ModelSpec) -> Servable:
    """Return the model that a request names.

    Raises:
        ServingError: the name is missing, or the model, version or label does not exist.
    """
    if not spec.name:
        raise invalid("ModelSpec has no name specified.")
    return repository.find(spec.name, _version(spec), spec.version_label)


def _version(spec: model_pb2.ModelSpec) -> int | None:
    return spec.version.value if spec.HasField("version") else None


def _requested_outputs(signature: ServableSignature, output_filter: list[str]) -> list[str]:
    seen: set[str] = set()
    for name in output_filter:
        if name not in signature.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {shortened(name)} Outputs expected "
                f"to be in the set {{{','.join(signature.outputs)}}}."
            )
        if name in seen:
            raise invalid(f"duplicate output tensor alias: {name}")
        seen.add(name)
    return output_filter or list(signature.outputs)


def _predict_response(
    servable: Servable, signature: ServableSignature, outputs: dict[str, np.ndarray]
) -> predict_pb2.PredictResponse:
    response = predict_pb2.PredictResponse()
    response.model_spec.CopyFrom(answering_spec(servable, signature.name))
    for name, array in outputs.items():
        write_array(response.outputs[name], array, signature.outputs[name].dtype)
    return response


def grpc_server(backend: Backend, address: str, clocks: CallClocks) -> tuple[grpc.Server, int]:
    """Return a server that is bound to HOST:PORT but not started, and its port.

    Raises:
        InputError: the port is in use, or the host is not an address of this machine.
    """
    limits = backend.limits
    count = thread_count(limits)
    server = grpc.server(
        futures.ThreadPoolExecutor(count, "grpc"),
        interceptors=[Admission(backend, clocks)],
        options=_options(limits),
        maximum_concurrent_rpcs=count,
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        PredictionService(backend), server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(
        ModelService(backend.repository, limits), server
    )
    try:
        return server, server.add_insecure_port(address)
    except RuntimeError as error:
        message = f"`grpc_port`: cannot listen at {address}; is it in use? choose another port"
        raise InputError(message) from error


def _options(limits: Limits) -> list[tuple[str, int]]:
    transfer_ms = int(limits.transfer_timeout_secs * 1000)
    # Idle new connections count against the maximum, and gRPC does not close one of them for a new
    # one; so their time limit is short.
    handshake_ms = min(transfer_ms, _HANDSHAKE_MS)
    return [
        ("grpc.max_receive_message_length", limits.max_request_bytes),
        ("grpc.max_send_message_length", limits.max_answer_bytes),
        ("grpc.so_reuseport", 0),  # otherwise two servers could share a port silently
        # gRPC does not limit the decompressed size of a message, so compression is refused.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        ("grpc.http2.bdp_probe", 0),  # keeps the buffer of an unread stream at 64 KiB
        ("grpc.max_concurrent_streams", _MAX_STREAMS),
        ("grpc.max_allowed_incoming_connections", connection_limit(limits)),
        ("grpc.max_connection_idle_ms", int(limits.idle_timeout_secs * 1000)),
        ("grpc.max_connection_age_ms", int(limits.max_connection_age_secs * 1000)),
        ("grpc.max_connection_age_grace_ms", int(limits.rest_timeout_secs * 1000)),
        ("grpc.keepalive_time_ms", int(limits.idle_timeout_secs * 1000)),
        ("grpc.keepalive_timeout_ms", transfer_ms),
        ("grpc.server_handshake_timeout_ms", handshake_ms),
        ("grpc.http2.settings_timeout", handshake_ms),
    ]
