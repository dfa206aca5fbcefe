"""The workers that an environment names: TF_CONFIG, Slurm's job steps, Kubernetes' Indexed Jobs."""

import json
import os
from random import Random

import pytest

from model.training.cluster import Cluster, cluster_from, expand_counts, expand_hosts
from pipeline.errors import InputError

# What `srun --nodes=3 --ntasks=5 env` prints of a step in Slurm 23.11, for the task of rank 3: the
# nodes n9, n10 and n12 with 2, 2 and 1 tasks.
SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NODELIST": "n[9-10,12]",
    "SLURM_NTASKS": "5",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "n[9-10,12]",
    "SLURM_STEP_NUM_NODES": "3",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
    "SLURM_PROCID": "3",
    "SLURM_NODEID": "1",
    "SLURM_LOCALID": "1",
    "SLURMD_NODENAME": "n10",
}

# Of a pod of https://kubernetes.io/docs/tasks/job/job-with-pod-to-pod-communication/, with what
# `model/deploy/indexed-job.yaml` adds.
KUBERNETES = {
    "HOSTNAME": "books-2",
    "JOB_COMPLETION_INDEX": "2",
    "KUBERNETES_SERVICE_HOST": "10.96.0.1",
    "CLOZELINE_WORKERS": "4",
    "CLOZELINE_SERVICE": "books-workers",
}


def tf_config(index: object = 0, kind: str = "worker", **cluster: object) -> dict[str, str]:
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})}


def hosts_of(cluster: Cluster) -> list[str]:
    return [address.rpartition(":")[0] for address in cluster.addresses]


def test_the_chief_of_tf_config_is_the_first_worker() -> None:
    tasks = {"worker": ["b:1", "c:2"], "chief": ["a:3"]}
    everyone = ("a:3", "b:1", "c:2")
    assert cluster_from(tf_config(1, **tasks)) == Cluster(everyone, 2)
    assert cluster_from(tf_config(0, "chief", **tasks)) == Cluster(everyone, 0)
    assert cluster_from(tf_config(0, worker=["[::1]:7"])) == Cluster(("[::1]:7",), 0)


def test_the_tf_config_of_vertex_ai() -> None:
    """As https://cloud.google.com/vertex-ai/docs/training/distributed-training prints it."""
    config = {
        "cluster": {
            "chief": ["training-workerpool0-ab:2222"],
            "worker": [f"training-workerpool1-ab-{index}:2222" for index in range(3)],
        },
        "environment": "cloud",
        "task": {"type": "worker", "index": 2},
        "job": '{"python_module":"","package_uris":[]}',
    }
    cluster = cluster_from({"TF_CONFIG": json.dumps(config)})
    assert (len(cluster.addresses), cluster.index) == (4, 3)
    assert cluster.addresses[0] == "training-workerpool0-ab:2222"


def test_tf_config_comes_first() -> None:
    both = SLURM | KUBERNETES | tf_config(worker=["a:1"])
    assert cluster_from(both) == Cluster(("a:1",), 0)
    assert cluster_from(both | {"TF_CONFIG": ""}) == cluster_from(SLURM)


def test_a_cluster_can_be_handed_on_as_tf_config() -> None:
    cluster = Cluster(("a:1", "b:2"), 1)
    assert cluster_from({"TF_CONFIG": cluster.tf_config}) == cluster


def test_a_step_of_slurm() -> None:
    cluster = cluster_from(SLURM)
    assert hosts_of(cluster) == ["n9", "n9", "n10", "n10", "n12"]
    assert cluster.index == 3
    ports = [int(address.rpartition(":")[2]) for address in cluster.addresses]
    first = ports[0]
    assert ports == [first, first + 1, first, first + 1, first]
    assert 1024 < first < 32_767  # no port that Linux gives to outgoing connections


def every_task(distribution: str) -> list[dict[str, str]]:
    """The environments of the step's five tasks, as `--distribution` numbers them."""
    nodes = {"block": [0, 0, 1, 1, 2], "cyclic": [0, 1, 2, 0, 1]}[distribution]
    return [
        SLURM | {
            "SLURM_PROCID": str(rank),
            "SLURM_NODEID": str(node),
            "SLURM_LOCALID": str(nodes[:rank].count(node)),
            "SLURMD_NODENAME": ["n9", "n10", "n12"][node],
        }
        for rank, node in enumerate(nodes)
    ]  # fmt: skip


@pytest.mark.parametrize("distribution", ["block", "cyclic"])
def test_the_tasks_of_slurm_agree(distribution: str) -> None:
    clusters = [cluster_from(environment) for environment in every_task(distribution)]
    assert len({cluster.addresses for cluster in clusters}) == 1
    assert sorted(cluster.index for cluster in clusters) == [0, 1, 2, 3, 4]
    assert clusters[0].index == 0
    for cluster, environment in zip(clusters, every_task(distribution), strict=True):
        assert hosts_of(cluster)[cluster.index] == environment["SLURMD_NODENAME"]


def test_the_rank_counts_where_node_and_local_rank_are_unknown() -> None:
    # The four variables that TensorFlow's SlurmClusterResolver reads.
    read = ("STEP_NODELIST", "STEP_NUM_TASKS", "STEP_TASKS_PER_NODE", "PROCID")
    cluster = cluster_from({f"SLURM_{name}": SLURM[f"SLURM_{name}"] for name in read})
    assert (hosts_of(cluster), cluster.index) == (["n9", "n9", "n10", "n10", "n12"], 3)


def test_slurm_jobs_on_the_same_node_have_different_ports() -> None:
    jobs = [
        {*cluster_from(SLURM | {"SLURM_JOB_ID": job, "SLURM_STEP_ID": step}).addresses}
        for job, step in (("4711", "0"), ("4711", "1"), ("4712", "0"), ("99999999", "0"))
    ]
    assert len(set().union(*jobs)) == 4 * 5


def test_reserved_ports_of_slurm() -> None:
    cluster = cluster_from(SLURM | {"SLURM_STEP_RESV_PORTS": "13007,13009-13010"})
    assert cluster.addresses == ("n9:13007", "n9:13009", "n10:13007", "n10:13009", "n12:13007")


def test_compressed_host_lists() -> None:
    """As `scontrol show hostnames` expands them."""
    assert expand_hosts("login") == ["login"]
    assert expand_hosts("n[1-2],m5,o[3-4,6,7-9]") == [
        "n1", "n2", "m5", "o3", "o4", "o6", "o7", "o8", "o9"
    ]  # fmt: skip
    assert expand_hosts("n[098-101]-ib.hpc") == [
        "n098-ib.hpc", "n099-ib.hpc", "n100-ib.hpc", "n101-ib.hpc"
    ]  # fmt: skip
    assert expand_hosts("r[0-1]c[2-3]") == ["r0c2", "r0c3", "r1c2", "r1c3"]
    assert expand_counts("3(x2),2,1") == [3, 3, 2, 1]


def test_host_lists_are_expanded_as_tensorflow_expands_them() -> None:
    from tensorflow.python.distribute.cluster_resolver import slurm_cluster_resolver as theirs

    rng = Random(3)

    def part() -> str:
        low = rng.randrange(120)
        return rng.choice([f"{low:03d}", f"{low}", f"{low:02d}-{low + rng.randrange(1, 9):02d}"])

    for _ in range(200):
        text = ",".join(
            f"{name}[{','.join(part() for _ in range(rng.randint(1, 3)))}]" if rng.random() < 0.7
            else f"{name}{low}"
            for low, name in enumerate(rng.choices(["n", "gpu-a", "x9-"], k=rng.randint(1, 4)))
        )  # fmt: skip
        assert expand_hosts(text) == theirs.expand_hostlist(text)


def test_an_indexed_job() -> None:
    cluster = cluster_from(KUBERNETES)
    assert cluster.addresses == tuple(f"books-{pod}.books-workers:2222" for pod in range(4))
    assert cluster.index == 2


def test_a_jobset_with_a_port() -> None:
    # JobSet names a pod JOBSET-REPLICATEDJOB-JOB-INDEX; its service has the name of the JobSet.
    cluster = cluster_from(
        {
            "HOSTNAME": "books-worker-0-11",
            "JOB_COMPLETION_INDEX": "11",
            "CLOZELINE_WORKERS": "12",
            "CLOZELINE_SERVICE": "books",
            "CLOZELINE_PORT": "9000",
        }
    )
    assert cluster.addresses[11] == "books-worker-0-11.books:9000"
    assert (len(cluster.addresses), cluster.index) == (12, 11)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "`strategy` multi-worker: the environment names no workers; set TF_CONFIG to the"),
        ({"TF_CONFIG": "{}"}, "TF_CONFIG: cannot be used; set .* received {}"),
        ({"TF_CONFIG": "a:1,b:1"}, "TF_CONFIG: cannot be used; .* received a:1,b:1"),
        ({"TF_CONFIG": "[" * 100_000}, r"TF_CONFIG: cannot be used; .* received \[\["),
        (tf_config(1, worker=["a:1"]), "TF_CONFIG: cannot be used"),
        (tf_config(-1, worker=["a:1"]), "TF_CONFIG: cannot be used"),
        (tf_config("0", worker=["a:1"]), "TF_CONFIG: cannot be used"),
        (tf_config(True, worker=["a:1", "b:1"]), "TF_CONFIG: cannot be used"),
        (tf_config(0, worker="a:1"), "TF_CONFIG: cannot be used"),
        (tf_config(0, "chief", worker=["a:1"]), "TF_CONFIG: cannot be used"),
        (tf_config(0, worker=[7]), "TF_CONFIG: cannot be used"),
        (tf_config(0, worker=["a:1"], ps=["b:1"]), "only tasks of type chief and worker .* ps"),
        (tf_config(0, "evaluator", worker=["a:1"]), "only tasks of type .* received evaluator"),
        (tf_config(0, worker=["a:1", "a:1"]), "TF_CONFIG: 2 workers have the address a:1; give"),
        (tf_config(0, worker=["a"]), "TF_CONFIG: a worker's address is a; expected HOST:PORT"),
        (tf_config(0, worker=["::1:7"]), "TF_CONFIG: a worker's address is ::1:7; .* for IPv6"),
        ({"SLURM_JOB_ID": "1", "SLURM_PROCID": "0"}, "not a task of a job step; .* with srun"),
        (SLURM | {"SLURM_STEP_NODELIST": "n[9-10]"}, "contradict each other: .* names 2 nodes"),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "6"}, "contradict .* 5 tasks on 3, and .* is 6"),
        (SLURM | {"SLURM_STEP_NODELIST": "n[9-"}, r"SLURM_STEP_NODELIST=n\[9-: cannot be parsed"),
        (SLURM | {"SLURM_STEP_NODELIST": "n[9-7]"}, "SLURM_STEP_NODELIST=.*: cannot be parsed"),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "2x2"}, "TASKS_PER_NODE=2x2: cannot be parsed"),
        (SLURM | {"SLURM_NODEID": "3"}, "SLURM_NODEID=3: must be below 3"),
        (SLURM | {"SLURM_LOCALID": "2"}, "SLURM_LOCALID=2: must be below 2"),
        (SLURM | {"SLURMD_NODENAME": "n7"}, "SLURMD_NODENAME is n7, but node 1 .* is n10"),
        (SLURM | {"SLURM_STEP_RESV_PORTS": "13007"}, "fewer ports .* --resv-ports=2"),
        ({name: value for name, value in SLURM.items() if "LOCALID" not in name}
         | {"SLURM_PROCID": "5"}, "SLURM_PROCID=5: must be below 5"),
        *(({name: value for name, value in KUBERNETES.items() if name != missing},
           f"Kubernetes: the environment has no {missing}; ")
          for missing in KUBERNETES if missing != "KUBERNETES_SERVICE_HOST"),
        (KUBERNETES | {"CLOZELINE_WORKERS": "2"}, "JOB_COMPLETION_INDEX=2: must be below 2"),
        (KUBERNETES | {"CLOZELINE_WORKERS": "four"}, "CLOZELINE_WORKERS=four: expected a number"),
        (KUBERNETES | {"HOSTNAME": "node-a7"}, "HOSTNAME node-a7 does not end with -2, .*hostNet"),
    ],
)  # fmt: skip
def test_environments_that_are_partial_or_contradict_themselves(
    environment: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message) as raised:
        cluster_from(environment)
    assert "\n" not in str(raised.value)


def test_auto_ignores_slurm_without_a_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The tasks of a step of Slurm may be trainings of their own."""
    from model.training.strategy import make_strategy

    for name in os.environ:
        if name.startswith(("SLURM", "CLOZELINE_W")) or name == "TF_CONFIG":
            monkeypatch.delenv(name)
    for name, value in (SLURM | {"JOB_COMPLETION_INDEX": "0"}).items():
        monkeypatch.setenv(name, value)
    assert make_strategy("auto").num_replicas_in_sync == 1
    monkeypatch.setenv("CLOZELINE_WORKERS", "2")
    for name in SLURM:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOSTNAME", "books-7")
    with pytest.raises(InputError, match="no CLOZELINE_SERVICE"):
        make_strategy("auto")
