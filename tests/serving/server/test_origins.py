"""Requests of other sites' pages, unknown hosts, ambiguous requests, and health checks."""

import http.server
import socket

import pytest
import requests
from starlette.datastructures import Headers

from docs.browser import Browser
from serving.server.main import ModelServer
from serving.server.origins import KnownHosts, is_loopback, known_hosts, refusal
from tests.conftest import http_server

HOST = "127.0.0.1"
BODY = '{"instances":[1.5]}'
ANSWER = {"predictions": [11.5]}


@pytest.fixture(scope="module")
def server(models):
    started = ModelServer(models, HOST, 0, 0, allowed_hosts=("models.example",))
    started.start()
    yield started
    started.stop()


@pytest.fixture
def post(server):
    def ask(headers, body=BODY):
        url = f"http://{HOST}:{server.rest_port}/v1/models/plus:predict"
        return requests.post(url, body, headers=headers, timeout=30)

    return ask


LOOPBACK = known_hosts("127.0.0.1", "localhost")


@pytest.mark.parametrize(
    "host",
    ["localhost", "LocalHost:8501", "localhost.", "a.localhost", "127.0.0.1:1", "127.8.9.1",
     "[::1]", "[::1]:8501", "[::ffff:127.0.0.1]"],
)  # fmt: skip
def test_loopback_names_are_known(host):
    assert LOOPBACK.knows(host)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8501", "localhost.evil.example", "127.0.0.1.evil.example",
     "notlocalhost", "0.0.0.0", "192.168.1.5", "[::]", "localhost@evil.example", "[", ":80"],
)  # fmt: skip
def test_other_names_are_not_known_on_a_loopback_address(host):
    assert not LOOPBACK.knows(host)


def test_additional_allowed_host_names():
    assert known_hosts("127.0.0.1", "Box.lan").knows("box.lan:8501")
    assert known_hosts("127.0.0.1", "127.0.0.1", ("Models.Example",)).knows("models.example.")
    assert known_hosts("0.0.0.0", "0.0.0.0").knows("anything.example")
    restricted = known_hosts("0.0.0.0", "0.0.0.0", ("models.example",))
    assert restricted.knows("models.example:80")
    assert restricted.knows("localhost")
    assert not restricted.knows("evil.example")
    assert not is_loopback("10.0.0.1")


@pytest.mark.parametrize(
    ("headers", "is_refused"),
    [
        ({}, False),  # no browser
        ({"origin": "http://localhost:8501"}, False),
        ({"origin": "http://localhost:3000"}, True),  # another port is another site
        ({"origin": "http://evil.example"}, True),
        ({"origin": "null"}, True),  # a sandboxed frame, a local file
        ({"origin": "https://models.example"}, False),  # a proxy that gives another Host
        ({"sec-fetch-site": "same-origin", "origin": "https://front.example"}, False),
        ({"sec-fetch-site": "none"}, False),
        ({"sec-fetch-site": "same-site", "origin": "http://localhost:3000"}, True),
        ({"sec-fetch-site": "cross-site"}, True),
        ({"sec-fetch-site": "what comes next"}, True),
    ],
)
def test_which_pages_may_post(headers, is_refused):
    hosts = KnownHosts(frozenset({"models.example"}))
    given = Headers({"host": "localhost:8501", **headers})
    assert bool(refusal("POST", given, hosts)) is is_refused
    assert refusal("GET", given, hosts) is None


def test_an_unknown_host_is_refused_everywhere(server):
    for path in ("/", "/playground/models", "/v1/models/plus", "/monitoring/prometheus/metrics"):
        url = f"http://{HOST}:{server.rest_port}{path}"
        assert requests.get(url, timeout=30).status_code == 200
        answer = requests.get(url, headers={"Host": "evil.example"}, timeout=30)
        assert answer.status_code == 403
        assert answer.json()["error"].startswith("Host 'evil.example' is not a name of this server")
        assert requests.get(url, headers={"Host": "models.example"}, timeout=30).ok


def test_a_page_of_another_site_gets_no_prediction(post):
    answer = post({"Origin": "http://evil.example", "Content-Type": "application/json"})
    assert answer.status_code == 403
    assert answer.json() == {"error": "Requests from pages of other sites are refused"}


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        (None, 200),
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("application/vnd.x+json", 200),
        ("application/x-www-form-urlencoded", 200),  # curl -d
        ("text/plain", 415),
        ("text/plain;charset=UTF-8", 415),
        ("multipart/form-data; boundary=x", 415),
        ("application/octet-stream", 415),
    ],
)
def test_content_types(post, content_type, status):
    answer = post({"Content-Type": content_type})
    assert answer.status_code == status
    assert answer.headers["x-content-type-options"] == "nosniff"
    if status == 200:
        assert answer.json() == ANSWER
    else:
        media_type = content_type.partition(";")[0]
        message = f"Content-Type {media_type!r}: expected application/json"
        assert answer.json() == {"error": message}


def test_two_content_lengths_are_refused_and_the_body_is_not_read(server):
    smuggled = b"GET /v1/models/plus HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with socket.create_connection((HOST, server.rest_port), timeout=30) as client:
        client.sendall(
            b"POST /v1/models/plus:predict HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled
        )
        received = b"".join(iter(lambda: client.recv(4096), b""))
    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.count(b"HTTP/1.1 ") == 1
    assert b"Content-Length and Transfer-Encoding contradict each other" in received


def first_line(server, target, host):
    body = BODY.encode()
    head = f"POST {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n"
    with socket.create_connection((HOST, server.rest_port), timeout=30) as client:
        client.sendall(head.encode() + b"Connection: close\r\n\r\n" + body)
        received = b"".join(iter(lambda: client.recv(4096), b""))
    return received.split(b"\r\n")[0].decode()


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        ("http://localhost:8501/v1/models/plus:predict", "localhost:8501", 200),
        ("HTTP://models.example/v1/models/plus:predict", "models.example", 200),
        ("https://[::1]/v1/models/%70lus:predict", "[::1]", 200),
        # RFC 9112, 3.2.2: an origin server must ignore the header and use the target's host.
        ("http://localhost/v1/models/plus:predict", "evil.example", 200),
        ("http://evil.example/v1/models/plus:predict", "localhost", 403),
        ("http://localhost@evil.example/v1/models/plus:predict", "localhost", 403),
        ("http://localhost/v1/models/plus:predict?x=1", "localhost", 400),  # as without a host
        ("http://localhost", "localhost", 404),
        ("http:///v1/models/plus:predict", "localhost", 404),
        ("ftp://localhost/v1/models/plus:predict", "localhost", 404),
    ],
)
def test_a_target_that_is_a_whole_url(server, target, host, status):
    assert first_line(server, target, host).startswith(f"HTTP/1.1 {status} ")


def test_a_request_without_a_host_is_answered(server):
    with socket.create_connection((HOST, server.rest_port), timeout=30) as client:
        client.sendall(b"GET /v1/models/plus HTTP/1.0\r\n\r\n")  # as compose.yaml's health check
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_health_checks(server):
    def status_of(path):
        return requests.get(f"http://{HOST}:{server.rest_port}{path}", timeout=30).status_code

    assert status_of("/v2/health/live") == 200
    assert status_of("/v2/health/ready") == 200
    assert status_of("/v2/models/plus/ready") == 200
    assert status_of("/v2/models/nope/ready") == 503


def test_a_server_of_no_available_version_is_not_ready(models):
    server = ModelServer(models, HOST, 0, 0)
    server.start()
    (model,) = server.repository._models.values()
    model.unload_all()
    url = f"http://{HOST}:{server.rest_port}"
    state = requests.get(f"{url}/v1/models/plus", timeout=30)
    ready = [requests.get(f"{url}/v2/{path}", timeout=30).status_code
             for path in ("health/live", "health/ready", "models/plus/ready")]  # fmt: skip
    server.stop()
    assert ready == [200, 503, 503]
    assert state.status_code == 200  # as TensorFlow Serving, which is why there are health checks
    assert state.json()["model_version_status"][0]["state"] == "END"


# ---- a page of another site, in a browser

PAGE = b"""<!DOCTYPE html><title>another site</title>
<form method="post" enctype="text/plain"><input name="x"></form>"""

POSTS = """
const [url, body, done] = arguments;
const types = ["application/json", "text/plain", "application/x-www-form-urlencoded"];
const attempt = async (mode, type) => {
  const options = { method: "POST", body, mode, headers: { "Content-Type": type } };
  try {
    const answer = await fetch(url, options);
    return `${mode} ${type} ${answer.status} ${await answer.text()}`;
  } catch (error) {
    return `${mode} ${type} failed`;
  }
};
Promise.all(["cors", "no-cors"].flatMap((mode) => types.map((type) => attempt(mode, type)))).then(
  async (found) => {
    const form = document.forms[0];
    if (form) {
      form.action = url;
      form.elements[0].name = body.slice(0, -1) + ',"y":"';
      form.elements[0].value = '"}';
    }
    done(found);
  });
"""


class _Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *_):
        pass


@pytest.fixture
def other_site():
    with http_server(_Page) as site:
        yield site.server_port


def predictions(server):
    """Return how many requests the server counted."""
    page = requests.get(f"http://{HOST}:{server.rest_port}/monitoring/prometheus/metrics").text
    lines = [line for line in page.splitlines() if line.startswith(":tensorflow:serving:request_c")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


@pytest.mark.browser
@pytest.mark.parametrize("site_host", ["localhost", "rebound.test"])
def test_a_page_of_another_site_in_a_browser(server, other_site, tmp_path, site_host):
    """`localhost` with another port is the same site; `rebound.test` is cross-site."""
    before = predictions(server)
    url = f"http://{HOST}:{server.rest_port}/v1/models/plus:predict"
    browser = Browser(tmp_path, "host-resolver-rules=MAP *.test 127.0.0.1")
    try:
        browser.open(f"http://{site_host}:{other_site}/")
        outcomes = browser.driver.execute_async_script(POSTS, url, BODY)
        browser.run("document.forms[0].submit()")
        shown = browser.wait(lambda: browser.run("return document.body.innerText"))
        browser.open(f"http://rebound.test:{server.rest_port}/")
        rebound = browser.run("return document.body.innerText")
        same_name = browser.driver.execute_async_script(
            POSTS, f"http://rebound.test:{server.rest_port}/v1/models/plus:predict", BODY
        )
        after = predictions(server)
        browser.open(f"http://{HOST}:{server.rest_port}/")
        (title,) = browser.texts("h1")
    finally:
        browser.driver.quit()
    assert len(outcomes) == 6
    assert not any("predictions" in outcome for outcome in outcomes)
    assert all(outcome.endswith("failed") for outcome in outcomes if outcome.startswith("cors"))
    assert "pages of other sites are refused" in shown
    assert "is not a name of this server" in rebound
    assert all("is not a name of this server" in outcome for outcome in same_name)
    assert after == before
    assert title == "Playground"  # the server's own page is there
