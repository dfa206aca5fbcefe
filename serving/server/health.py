"""Endpoints for health checks, which TensorFlow Serving's API lacks.

Its model status is HTTP 200 even if no version can be loaded, so probes cannot use it. These are
the endpoints of the Open Inference Protocol, which KServe, Triton and others use:

    GET /v2/health/live          200
    GET /v2/health/ready         200 if any version of any model is AVAILABLE, else 503
    GET /v2/models/NAME/ready    200 if any version of this model is AVAILABLE, else 503
"""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serving.server.models import Repository
from serving.server.origins import NOSNIFF


def health_routes(repository: Repository) -> list[Route]:
    """Return the routes of the health checks."""

    async def live(_request: Request) -> Response:
        return JSONResponse({"live": True}, headers=NOSNIFF)

    async def ready(request: Request) -> Response:
        served, name = repository.served(), request.path_params.get("name")
        is_ready = bool(served) if name is None else name in served
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503, NOSNIFF)

    return [
        Route("/v2/health/live", live, methods=["GET"]),
        Route("/v2/health/ready", ready, methods=["GET"]),
        Route("/v2/models/{name}/ready", ready, methods=["GET"]),
    ]
