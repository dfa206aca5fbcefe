"""The playground at `/`: a page where one types, and sees what the loaded models answer.

The page asks the REST API as any other client does. What it needs besides, the names of the loaded
models, TensorFlow Serving's API does not tell, so that has an address outside of the API:

    GET /                     the page, with its style and scripts under /playground/
    GET /playground/models    {"models": [{"name": ..., "versions": [...]}]}, newest version first
"""

from importlib import resources

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serving.server.models import Repository

_FILES = {
    "/": ("playground.html", "text/html"),
    "/playground/style.css": ("style.css", "text/css"),
    "/playground/attention.js": ("attention.js", "text/javascript"),
    "/playground/playground.js": ("playground.js", "text/javascript"),
}

_HEADERS = {
    # No script or style but these files, no address but this server's, and in no other's page.
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
        return JSONResponse({"models": served}, headers=_HEADERS)

    files = [_file_route(path, name, kind) for path, (name, kind) in _FILES.items()]
    return [*files, Route("/playground/models", models, methods=["GET"])]


def _file_route(path: str, name: str, media_type: str) -> Route:
    content = (resources.files("serving") / "pages" / name).read_bytes()

    def answer(_request: Request) -> Response:
        return Response(content, media_type=media_type, headers=_HEADERS)

    return Route(path, answer, methods=["GET"])
