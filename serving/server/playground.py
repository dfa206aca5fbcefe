"""The playground at `/`: a page to type texts and see the responses of the loaded models.

The page uses the REST API like any other client. TensorFlow Serving's API cannot list the loaded
models, so the list has a separate endpoint:

    GET /                     the page, with its style and scripts under /playground/
    GET /playground/models    {"models": [{"name": ..., "versions": [...]}]}, newest version first,
                              and {"tasks": [{"signature": ..., "view": ..., "texts": [...]}]}, how
                              the page asks what a model was tuned for
"""

from importlib import resources

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from model.tasks.task_kind import all_kinds
from pipeline.storage.strict_json import JsonObject
from serving.server.models import Repository

_FILES = {
    "/": ("playground.html", "text/html"),
    "/playground/style.css": ("style.css", "text/css"),
    "/playground/attention.js": ("attention.js", "text/javascript"),
    "/playground/playground.js": ("playground.js", "text/javascript"),
}

_HEADERS = {
    # Only these scripts and styles, only connections to this server, and no embedding in frames.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def playground_routes(repository: Repository) -> list[Route]:
    """Return the routes of the page, its files, and the names of the loaded models."""

    def models(_request: Request) -> Response:
        served = [
            {"name": name, "versions": sorted(versions, reverse=True)}
            for name, versions in sorted(repository.served().items())
        ]
        return JSONResponse({"models": served, "tasks": task_forms()}, headers=_HEADERS)

    files = [_file_route(path, name, kind) for path, (name, kind) in _FILES.items()]
    return [*files, Route("/playground/models", models, methods=["GET"])]


def task_forms() -> list[JsonObject]:
    """Return the signatures that the page asks to classify: view, and texts to begin with."""
    signatures = {kind.signature.name: kind.signature for kind in all_kinds()}
    return [
        {"signature": name, "view": signature.view, "texts": signature.playground}
        for name, signature in signatures.items()
        if signature.playground
    ]


def _file_route(path: str, name: str, media_type: str) -> Route:
    content = (resources.files("serving") / "pages" / name).read_bytes()

    def answer(_request: Request) -> Response:
        return Response(content, media_type=media_type, headers=_HEADERS)

    return Route(path, answer, methods=["GET"])
