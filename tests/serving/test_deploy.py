"""The files for the real server agree with their schemas, each other, and what export writes."""

import http.server
import re
import subprocess
import threading
import time
from pathlib import Path

import compose_spec
import kubernetes_validate
import pytest
import requests
import yaml

from serving.export import server_configs as configs
from serving.export.choices import CALLER_THREAD, FROZEN_WEIGHTS, TENSOR_PARALLEL
from serving.export.warmup_requests import BATCH_SIZES
from serving.server import launch
from serving.server.config_files import VersionPolicy, read_batching_parameters, read_models_config
from serving.server.launch import REAL_SERVER, REST_THREADS
from serving.server.limits import Limits
from serving.server.main import ModelServer
from serving.tf_serving import GRPC_PORT, METRICS_PATH, REST_PORT

DEPLOY = Path(__file__).parents[2] / "serving" / "deploy"
DIGEST = "sha256:" + "5a" * 32
VALUES = {"MODELS": "/srv/models", "SERVING_DIGEST": DIGEST}
VARIABLE = re.compile(r"\$\{(\w+)(?::\?[^}]*)?\}")


def filled_in(name):
    """Return a file with its variables replaced, as Compose and envsubst do."""
    text = (DEPLOY / name).read_text(encoding="utf-8")
    return VARIABLE.sub(lambda found: VALUES[found[1]], text)


KUBERNETES = list(yaml.safe_load_all(filled_in("kubernetes.yaml")))
COMPOSE = filled_in("compose.yaml")
SERVER = yaml.safe_load(COMPOSE)["services"]["server"]


def of_kind(kind):
    (found,) = [one for one in KUBERNETES if one["kind"] == kind]
    return found


POD = of_kind("Deployment")["spec"]["template"]
(CONTAINER,) = POD["spec"]["containers"]


@pytest.mark.parametrize("resource", KUBERNETES, ids=lambda resource: resource["kind"])
def test_kubernetes_schema(resource):
    newest = kubernetes_validate.latest_version()
    kubernetes_validate.validate(resource, newest, strict=True)


def test_the_schema_refuses_what_kubernetes_would():
    broken = yaml.safe_load(yaml.safe_dump(of_kind("Deployment")))
    broken["spec"]["template"]["spec"]["containers"][0]["readyProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readyProbe"):
        kubernetes_validate.validate(broken, kubernetes_validate.latest_version(), strict=True)


def test_both_set_what_makes_answers_fast():
    of_container = {variable["name"]: variable["value"] for variable in CONTAINER["env"]}
    limit = SERVER["deploy"]["resources"]["limits"]["cpus"]
    for environment, cpus in (
        (SERVER["environment"], limit),
        (of_container, CONTAINER["resources"]["requests"]["cpu"]),
    ):
        assert environment.items() >= (FROZEN_WEIGHTS | CALLER_THREAD).items()
        assert int(environment["TF_NUM_INTRAOP_THREADS"]) * TENSOR_PARALLEL == int(cpus)
    # Only a limit needs it: without one, the machine's other cores may help.
    assert SERVER["environment"]["TF_NUM_INTEROP_THREADS"] == limit
    assert "TF_NUM_INTEROP_THREADS" not in of_container


def test_compose_schema():
    read = compose_spec.PyCompose.from_yaml(COMPOSE)
    read.validate()
    assert read.service_names() == ["server"]


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("image:", "image_name:"),
        ("read_only: true", "read_only: 7"),
        ("/srv/models:/models:ro", "srv models"),
        ("10s", "ten"),
    ],
)
def test_the_schema_refuses_what_compose_would(good, bad):
    assert good in COMPOSE
    with pytest.raises(ValueError, match=r"services\.server"):
        compose_spec.PyCompose.from_yaml(COMPOSE.replace(good, bad, 1))


def test_both_run_the_same_server():
    assert SERVER["image"] == CONTAINER["image"] == f"tensorflow/serving@{DIGEST}"
    assert SERVER["entrypoint"] == CONTAINER["command"] == [REAL_SERVER]
    assert SERVER["command"] == CONTAINER["args"]
    flags = dict(flag.removeprefix("--").partition("=")[::2] for flag in CONTAINER["args"])
    ports = {one["name"]: one["containerPort"] for one in CONTAINER["ports"]}
    assert {"grpc": int(flags["port"]), "rest": int(flags["rest_api_port"])} == ports
    assert flags["model_config_file"] == "/config/models.config"
    assert flags["batching_parameters_file"] == f"/models/books/{configs.BATCHING}"
    assert flags["monitoring_config_file"] == f"/models/books/{configs.MONITORING}"
    assert int(flags["rest_api_num_threads"]) == BATCH_SIZES[-1] == REST_THREADS


def test_both_need_the_digest_of_the_image():
    for name in ("compose.yaml", "kubernetes.yaml"):
        text = (DEPLOY / name).read_text(encoding="utf-8")
        (image,) = re.findall(r"^ +image: (.*)$", text, re.MULTILINE)
        assert image.startswith("tensorflow/serving@${SERVING_DIGEST")
        # As the daemons parse it: unreplaced or empty, it is no reference.
        for value in ("", "${SERVING_DIGEST}"):
            assert not REFERENCE.fullmatch(VARIABLE.sub(lambda _, value=value: value, image))
        assert REFERENCE.fullmatch(VARIABLE.sub(DIGEST, image))
    assert "${SERVING_DIGEST:?" in (DEPLOY / "compose.yaml").read_text(encoding="utf-8")


REFERENCE = re.compile(r"[a-z0-9/]+@sha256:[0-9a-f]{64}")
"""The references of github.com/distribution/reference that matter here: a name and a digest."""


def test_a_runaway_server_is_bounded():
    (temporary,) = [one["emptyDir"] for one in POD["spec"]["volumes"] if "emptyDir" in one]
    assert temporary == {"sizeLimit": "64Mi"}
    assert SERVER["tmpfs"] == ["/tmp:size=64m"]
    assert SERVER["deploy"]["resources"]["limits"]["pids"] == 1024


def test_servers_are_spread_over_nodes():
    (spread,) = POD["spec"]["topologySpreadConstraints"]
    assert spread["topologyKey"] == "kubernetes.io/hostname"
    assert spread["labelSelector"]["matchLabels"] == POD["metadata"]["labels"]


def test_the_prometheus_that_the_annotations_invite_is_admitted():
    annotations = POD["metadata"]["annotations"]
    ports = {one["name"]: one["containerPort"] for one in CONTAINER["ports"]}
    admitted = {
        ports[port["port"]]
        for rule in of_kind("NetworkPolicy")["spec"]["ingress"]
        if any("namespaceSelector" in peer for peer in rule["from"])
        for port in rule["ports"]
    }
    assert admitted == {int(annotations["prometheus.io/port"])}


def test_the_exporter_can_write_what_the_servers_read():
    (claim,) = [
        one["persistentVolumeClaim"]
        for one in POD["spec"]["volumes"]
        if "persistentVolumeClaim" in one
    ]
    assert of_kind("PersistentVolumeClaim")["spec"]["accessModes"] == ["ReadWriteMany"]
    assert claim["readOnly"] is True


def test_models_are_read_only_and_nobody_is_root():
    mounts = {one["mountPath"]: one.get("readOnly") for one in CONTAINER["volumeMounts"]}
    assert mounts["/models"] is mounts["/config"] is True
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"] is SERVER["read_only"] is True
    assert all(volume.endswith(":ro") for volume in SERVER["volumes"])
    assert POD["spec"]["securityContext"]["runAsNonRoot"] is True
    assert all(port.startswith("127.0.0.1:") for port in SERVER["ports"])


def test_references_to_the_deployment_are_valid():
    labels = POD["metadata"]["labels"]
    for kind in ("Deployment", "PodDisruptionBudget"):
        assert of_kind(kind)["spec"]["selector"]["matchLabels"] == labels
    assert of_kind("Service")["spec"]["selector"] == labels
    assert of_kind("NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels
    target = of_kind("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert target["name"] == of_kind("Deployment")["metadata"]["name"]
    claims = {
        volume.get("persistentVolumeClaim", {}).get("claimName")
        for volume in POD["spec"]["volumes"]
    }
    assert of_kind("PersistentVolumeClaim")["metadata"]["name"] in claims
    assert POD["metadata"]["annotations"]["prometheus.io/path"] == METRICS_PATH
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    assert ports == {"rest": REST_PORT, "grpc": GRPC_PORT}
    assert {f"--rest_api_port={REST_PORT}", f"--port={GRPC_PORT}"} <= {*SERVER["command"]}


def test_the_labels_of_the_canary():
    (model,) = read_models_config(DEPLOY / "models.config")
    assert (model.name, str(model.base_path)) == ("books", "/models/books")
    assert model.labels == {"stable": 1, "canary": 2}
    assert model.policy == VersionPolicy(latest=None, specific=frozenset({1, 2}))
    for probe in ("startupProbe", "readinessProbe"):
        path = f"/v1/models/{model.name}/metadata"
        assert CONTAINER[probe]["httpGet"] == {"path": path, "port": "rest"}


def test_the_probes_succeed_only_if_a_version_is_available(tmp_path, save_types):
    """The real server was recorded with the same codes: 404 for a model that is not loaded."""
    save_types(tmp_path / "books" / "1")
    save_types(tmp_path / "other" / "1")
    config = tmp_path / "models.config"
    models = {name: tmp_path / name for name in ("books", "other")}
    config.write_text(launch.models_config(tmp_path, [*models]), encoding="utf-8")
    server = ModelServer(config, "127.0.0.1", 0, 0, Limits(poll_secs=0.05))
    server.start()
    try:
        where = f"http://127.0.0.1:{server.rest_port}"
        probe = where + CONTAINER["readinessProbe"]["httpGet"]["path"]
        assert requests.get(probe, timeout=30).status_code == 200
        config.write_text(launch.models_config(tmp_path, ["other"]), encoding="utf-8")
        deadline = time.monotonic() + 60
        while requests.get(probe, timeout=30).status_code == 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert requests.get(probe, timeout=30).status_code == 404
        status = requests.get(f"{where}/v1/models/books", timeout=30)
        assert (status.status_code, "END" in status.text) == (200, True)
    finally:
        server.stop()


def test_what_export_writes_is_understood_by_the_embedded_server(tmp_path):
    for version in ("1", "4"):
        (tmp_path / "m" / version).mkdir(parents=True)
    configs.write_configs(tmp_path / "m")
    (model,) = read_models_config(tmp_path / "m" / configs.MODELS)
    assert (model.name, model.base_path) == ("m", (tmp_path / "m").resolve())
    assert model.labels == {"stable": 1, "canary": 4}
    options = read_batching_parameters(tmp_path / "m" / configs.BATCHING)
    assert options.max_batch_size == options.allowed_batch_sizes[-1]
    assert options.batch_timeout_micros == 2000


@pytest.mark.parametrize(("status", "code"), [(200, 0), (404, 1), (503, 1)])
def test_the_health_check_of_compose(status, code):
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            assert self.path == "/v1/models/books/metadata"
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b'{"error": "UNAVAILABLE, 200 "}')

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        command = SERVER["healthcheck"]["test"][1:]
        script = re.sub("/8501", f"/{server.server_port}", command[-1])
        done = subprocess.run([*command[:-1], script], timeout=300)
    assert done.returncode == code
