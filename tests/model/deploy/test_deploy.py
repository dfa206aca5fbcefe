"""The files that start a training elsewhere: schemas, agreement with the commands, their probes."""

import json
import os
import re
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from clozeline.commands.pretrain import Pretrain
from clozeline.main import parse
from model.training.cluster import DEFAULT_PORT, cluster_from

DEPLOY = Path(__file__).parents[3] / "model" / "deploy"
IMAGE = "registry.example/clozeline@sha256:" + "5a" * 32


def documents(name: str) -> list[Any]:
    """The documents of a file, with the image filled in as envsubst does."""
    text = (DEPLOY / name).read_text(encoding="utf-8")
    assert set(re.findall(r"\$\{\w+\}", text)) == {"${CLOZELINE_IMAGE}"}
    return [*yaml.safe_load_all(text.replace("${CLOZELINE_IMAGE}", IMAGE))]


INDEXED_JOB, JOBSET = documents("indexed-job.yaml"), documents("jobset.yaml")
(VERTEX,) = documents("vertex.yaml")


def of_kind(resources: list[Any], kind: str) -> Any:
    (found,) = [each for each in resources if each["kind"] == kind]
    return found


JOB = of_kind(INDEXED_JOB, "Job")
(REPLICATED,) = of_kind(JOBSET, "JobSet")["spec"]["replicatedJobs"]
JOB_OF_JOBSET = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"name": "books-worker-0"},
    **REPLICATED["template"],
}
"""The Job that the JobSet controller makes from the template."""

JOBS = pytest.mark.parametrize("job", [JOB, JOB_OF_JOBSET], ids=["job", "jobset"])


def schema(name: str) -> Any:
    return json.loads((Path(__file__).parent / f"{name}.schema.json").read_text())


@pytest.mark.parametrize(
    "resource",
    [*INDEXED_JOB, *(each for each in JOBSET if each["kind"] != "JobSet"), JOB_OF_JOBSET],
    ids=lambda resource: resource["kind"],
)
def test_kubernetes_schema(resource: Any) -> None:
    kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)


def test_jobset_schema() -> None:
    jobset = of_kind(JOBSET, "JobSet")
    jsonschema.validate(jobset, schema("jobset"))
    jobset = json.loads(json.dumps(jobset))
    jobset["spec"]["failurePolicy"]["maxRestart"] = 1
    with pytest.raises(jsonschema.ValidationError, match="maxRestart"):
        jsonschema.validate(jobset, schema("jobset"))


def test_vertex_schema() -> None:
    jsonschema.validate(VERTEX, schema("vertex"))
    broken = json.loads(json.dumps(VERTEX))
    broken["workerPoolSpecs"][1]["containerSpec"]["image"] = IMAGE
    with pytest.raises(jsonschema.ValidationError, match="image"):
        jsonschema.validate(broken, schema("vertex"))


def pod_of(job: Any) -> tuple[Any, Any]:
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    return pod, container


@JOBS
def test_the_pods_find_each_other(job: Any) -> None:
    """From the environment that Kubernetes adds: the index, and the host name NAME-INDEX."""
    _, container = pod_of(job)
    spec, name = job["spec"], job["metadata"]["name"]
    given = {variable["name"]: variable["value"] for variable in container["env"]}
    service = given["CLOZELINE_SERVICE"]
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"]
    for index in range(spec["completions"]):
        added = {"JOB_COMPLETION_INDEX": f"{index}", "HOSTNAME": f"{name}-{index}"}
        cluster = cluster_from(given | added)
        assert cluster.index == index
        assert cluster.addresses == tuple(
            f"{name}-{other}.{service}:{DEFAULT_PORT}" for other in range(spec["completions"])
        )
    assert container["ports"] == [{"name": "workers", "containerPort": DEFAULT_PORT}]


def test_the_service_exists() -> None:
    service, (pod, container) = of_kind(INDEXED_JOB, "Service"), pod_of(JOB)
    given = {variable["name"]: variable["value"] for variable in container["env"]}
    assert service["metadata"]["name"] == pod["subdomain"] == given["CLOZELINE_SERVICE"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["selector"] == JOB["spec"]["template"]["metadata"]["labels"]
    jobset, (_, container) = of_kind(JOBSET, "JobSet"), pod_of(JOB_OF_JOBSET)
    given = {variable["name"]: variable["value"] for variable in container["env"]}
    network = jobset["spec"]["network"]
    assert network["subdomain"] == given["CLOZELINE_SERVICE"]
    assert network["enableDNSHostnames"] is network["publishNotReadyAddresses"] is True
    name = f"{jobset['metadata']['name']}-{REPLICATED['name']}-0"
    assert name == JOB_OF_JOBSET["metadata"]["name"]


@pytest.mark.parametrize("resources", [INDEXED_JOB, JOBSET], ids=["job", "jobset"])
def test_only_workers_reach_workers(resources: list[Any]) -> None:
    job = JOB if resources is INDEXED_JOB else JOB_OF_JOBSET
    labels = job["spec"]["template"]["metadata"]["labels"]
    spec = of_kind(resources, "NetworkPolicy")["spec"]
    assert spec["podSelector"]["matchLabels"] == labels
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    (rule,) = spec["ingress"]
    assert rule["from"] == [{"podSelector": {"matchLabels": labels}}]


@JOBS
def test_pods_are_restricted_and_have_time_to_save(job: Any) -> None:
    pod, container = pod_of(job)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001  # the image's
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["terminationGracePeriodSeconds"] == 120
    assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "training"
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/work", "/tmp"}


@JOBS
def test_bad_input_is_not_retried(job: Any) -> None:
    bad, preempted = job["spec"]["podFailurePolicy"]["rules"]
    assert bad["action"] == "FailJob"
    assert bad["onExitCodes"] == {"containerName": "worker", "operator": "In", "values": [2]}
    assert preempted["action"] == "Ignore"
    assert pod_of(job)[0]["restartPolicy"] == "Never"  # Kubernetes requires it for such a policy


def test_both_start_the_same_pod() -> None:
    one, two = (json.loads(json.dumps(pod_of(job)[0])) for job in (JOB, JOB_OF_JOBSET))
    del one["subdomain"]  # JobSet sets it
    for pod in (one, two):
        pod["containers"][0]["env"] = [
            each for each in pod["containers"][0]["env"] if each["name"] != "CLOZELINE_SERVICE"
        ]
    assert one == two


def test_the_commands_can_be_parsed() -> None:
    _, container = pod_of(JOB)
    pools = VERTEX["workerPoolSpecs"]
    for name, *flags in (container["args"], *(pool["containerSpec"]["args"] for pool in pools)):
        options, unknown = parse(name, flags)
        assert isinstance(options, Pretrain)
        assert (options.strategy, unknown) == ("multi-worker", [])


def test_a_pod_starts_the_program_in_place_of_the_shell(tmp_path: Path) -> None:
    """So that SIGTERM reaches the training."""
    _, container = pod_of(JOB)
    program = tmp_path / "clozeline"
    program.write_text('#!/bin/sh\necho $$ "$@"\n')
    program.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    command = [part.replace("/tmp/started", f"{tmp_path}/started") for part in container["command"]]
    process = subprocess.Popen(
        [*command, "a b", "c"], env={"PATH": path}, stdout=subprocess.PIPE, text=True
    )
    assert process.communicate(timeout=60)[0] == f"{process.pid} a b c\n"
    assert (tmp_path / "started").exists()


def test_the_probes_of_progress(tmp_path: Path) -> None:
    _, container = pod_of(JOB)
    metrics, started = tmp_path / "metrics.jsonl", tmp_path / "started"

    def succeeds(probe: str) -> bool:
        words = container[probe]["exec"]["command"]
        words = [word.replace("/work/run/metrics.jsonl", str(metrics)) for word in words]
        words = [word.replace("/tmp/started", str(started)) for word in words]
        done = subprocess.run(words, stderr=subprocess.DEVNULL, timeout=60)
        return done.returncode == 0

    now = time.time()
    started.touch()
    assert not succeeds("startupProbe")  # a new run
    assert not succeeds("livenessProbe")
    metrics.touch()
    os.utime(metrics, (now - 7200, now - 7200))
    assert not succeeds("startupProbe")  # a resumed run, with lines of an earlier start
    assert not succeeds("livenessProbe")
    os.utime(started, (now - 3600, now - 3600))
    os.utime(metrics, (now - 60, now - 60))
    assert succeeds("startupProbe")
    assert succeeds("livenessProbe")
    os.utime(metrics, (now - 1900, now - 1900))
    assert not succeeds("livenessProbe")


def test_the_pools_of_vertex_are_the_same() -> None:
    first, others = VERTEX["workerPoolSpecs"]
    assert (first["replicaCount"], others["replicaCount"]) == (1, 3)
    del first["replicaCount"], others["replicaCount"]
    assert first == others
    assert first["containerSpec"]["imageUri"] == IMAGE
    (share,) = first["nfsMounts"]
    folder = f"/mnt/nfs/{share['mountPoint']}/"
    paths = [word.partition("=")[2] for word in first["containerSpec"]["args"] if "/" in word]
    assert len(paths) == 2
    assert all(path.startswith(folder) for path in paths)


def run_slurm_script(folder: Path, codes: str, *flags: str) -> tuple[int, list[list[str]], str]:
    """Run the script with an srun that ends with these exit codes in turn.

    Returns:
        The exit code, what srun was started with each time, and standard error.
    """
    srun = folder / "srun"
    srun.write_text(
        '#!/bin/bash\nprintf "%q " "$@" >> "$LOG"; echo >> "$LOG"\n'
        'read -ra codes <<< "$CODES"; exit "${codes[$(wc -l < "$LOG") - 1]}"\n'
    )
    srun.chmod(0o755)
    environment = {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "LOG": str(folder / "log"),
        "CODES": codes,
    }
    done = subprocess.run(
        [DEPLOY / "slurm.sh", *flags], env=environment, capture_output=True, text=True, timeout=60
    )
    starts = [shlex.split(line) for line in (folder / "log").read_text().splitlines()]
    return done.returncode, starts, done.stderr


@pytest.mark.parametrize(
    ("codes", "expected", "starts"),
    [("0", 0, 1), ("2 0", 2, 1), ("130 0", 130, 1), ("1 137 0", 0, 3), ("1 1 1 137 0", 137, 4)],
)
def test_the_script_for_slurm(tmp_path: Path, codes: str, expected: int, starts: int) -> None:
    flags = ("--dataset", "a b", "--run", "r")
    code, started, said = run_slurm_script(tmp_path, codes, *flags)
    assert (code, len(started)) == (expected, starts)
    assert said.count("starting all again") == starts - 1
    words = started[0][started[0].index("clozeline") :]
    options, unknown = parse(words[1], words[2:])
    assert isinstance(options, Pretrain)
    assert (options.strategy, options.dataset, unknown) == ("multi-worker", Path("a b"), [])


SBATCH = {
    "job-name", "nodes", "ntasks-per-node", "cpus-per-task", "mem", "time", "output", "open-mode",
    "signal", "requeue",
}  # fmt: skip
"""Options in https://slurm.schedmd.com/sbatch.html."""


def test_the_options_for_sbatch() -> None:
    lines = (DEPLOY / "slurm.sh").read_text().splitlines()
    options = [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")]
    assert {option.partition("=")[0] for option in options} == SBATCH
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    last_option = max(i for i, line in enumerate(lines) if line.startswith("#SBATCH"))
    assert last_option < first_command  # sbatch reads no further
    assert not [line for line in options if re.search(r"\s#", line)]
