"""A client for model servers over REST and gRPC, which needs no TensorFlow."""

from serving.client.client import Client, GrpcClient, RequestError, ServerError, Signature

__all__ = ["Client", "GrpcClient", "RequestError", "ServerError", "Signature"]
