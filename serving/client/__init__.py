"""A client for model servers; over REST it does not need TensorFlow."""

from serving.client.client import Client, GrpcClient, RequestError, ServerError, Signature

__all__ = ["Client", "GrpcClient", "RequestError", "ServerError", "Signature"]
