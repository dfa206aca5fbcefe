"""Find the workers of a training in the environment: TF_CONFIG, Slurm, or a Kubernetes Indexed Job.

Pure functions from environment variables to a `Cluster`; nothing here imports TensorFlow.

TensorFlow's `SlurmClusterResolver` reads the same variables of Slurm. It is not used: in 2.21 it
sorts hosts as text (n10 before n2), so ranks and addresses disagree; it fails on nodes without
GPUs; and all jobs on a node get the same ports.
"""

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import InputError
from pipeline.storage.strict_json import JsonObject, to_json

TF_CONFIG = "TF_CONFIG"
"""Environment variable with the addresses of all workers and the index of this one:
https://www.tensorflow.org/guide/distributed_training#setting_up_the_tf_config_environment_variable"""

WORKERS = "CLOZELINE_WORKERS"
"""Environment variable with the number of pods of a Kubernetes Job, its `completions`."""

SERVICE = "CLOZELINE_SERVICE"
"""Environment variable with the name of the headless service, the pods' `subdomain`."""

PORT = "CLOZELINE_PORT"
"""Environment variable with the port of the workers in Kubernetes."""

DEFAULT_PORT = 2222

_INDEX = "JOB_COMPLETION_INDEX"
FREE_PORTS = range(12_000, 32_000)
"""Ports to choose from; from 32768 on, Linux gives them to outgoing connections."""

Environment = Mapping[str, str]


@dataclass(frozen=True)
class Cluster:
    """The workers of a training.

    Attributes:
        addresses: HOST:PORT of each worker; the first worker writes the run.
        index: index of this worker in `addresses`.
    """

    addresses: tuple[str, ...]
    index: int

    def __str__(self) -> str:
        """Return for example `worker 2 of 4`."""
        return f"worker {self.index + 1} of {len(self.addresses)}"

    @property
    def tf_config(self) -> str:
        """The value of `TF_CONFIG` for this worker."""
        task: JsonObject = {"type": "worker", "index": self.index}
        return to_json({"cluster": {"worker": list(self.addresses)}, "task": task})


def cluster_from(environment: Environment) -> Cluster:
    """Return the workers that the environment names.

    `TF_CONFIG` comes first, then Slurm, then Kubernetes.

    Raises:
        InputError: it names none, or variables are missing or contradict each other.
    """
    # A user sets it on purpose; Slurm and Kubernetes set theirs in every job.
    if environment.get(TF_CONFIG):
        return _checked(_from_tf_config(environment[TF_CONFIG]), TF_CONFIG)
    if "SLURM_JOB_ID" in environment or "SLURM_PROCID" in environment:
        return _checked(_from_slurm(environment), "Slurm")
    if _INDEX in environment or WORKERS in environment:
        return _checked(_from_kubernetes(environment), "Kubernetes")
    raise InputError(
        f"`strategy` multi-worker: the environment names no workers; {_TF_CONFIG_RULE}; or start "
        f"the command with Slurm's srun, or as a Kubernetes Indexed Job with {WORKERS}"
    )


def clusters_on(hosts: Sequence[str]) -> list[Cluster]:
    """Return the cluster of each worker, one on each host.

    Args:
        hosts: HOST or HOST:PORT of each worker; without a port, the workers of a host have ports
            from `DEFAULT_PORT` on.

    Raises:
        InputError: a host is malformed, or an address occurs twice.
    """
    addresses: list[str] = []
    for host in hosts:
        port = DEFAULT_PORT + sum(each.startswith(f"{host}:") for each in addresses)
        addresses.append(host if re.search(r"[^:]:\d+$", host) else f"{host}:{port}")
    clusters = [Cluster(tuple(addresses), index) for index in range(len(addresses))]
    return [_checked(cluster, "`hosts`") for cluster in clusters]


def has_cluster(environment: Environment) -> bool:
    """Return whether the environment seems to name workers; the names may be invalid."""
    names = (TF_CONFIG, "SLURM_JOB_ID", "SLURM_PROCID", _INDEX, WORKERS)
    return any(environment.get(name) for name in names)


def names_workers(environment: Environment) -> bool:
    """Return whether the environment was set up for several workers of this project.

    Slurm's variables do not count: the tasks of a job step may as well be trainings of their own.
    """
    return bool(environment.get(TF_CONFIG) or environment.get(WORKERS))


def _checked(cluster: Cluster, source: str) -> Cluster:
    """Raise `InputError` unless all addresses have a port and differ."""
    for address in cluster.addresses:
        if not re.fullmatch(r"(\[[^\[\]\s]+\]|[^:\[\]\s]+):\d{1,5}", address):
            raise InputError(
                f"{source}: a worker's address is {address}; expected HOST:PORT, and [HOST]:PORT "
                "for IPv6"
            )
    address, count = Counter(cluster.addresses).most_common(1)[0]
    if count > 1:
        raise InputError(
            f"{source}: {count} workers have the address {address}; give each a port of its own"
        )
    return cluster


_TF_CONFIG_RULE = (
    f"set {TF_CONFIG} to the workers and the index of this one, for example "
    '{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, '
    '"task": {"type": "worker", "index": 0}}'
)


def _from_tf_config(text: str) -> Cluster:
    try:
        config = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        kind, index = task["type"], task["index"]
        other = {*cluster, kind} - {"chief", "worker"}
        # TensorFlow's order: the chief, if there is one, is worker 0.
        chief, workers = _addresses(cluster, "chief"), _addresses(cluster, "worker")
        # `True` is an int in Python, and would be worker 1.
        fits = type(index) is int and 0 <= index < len(cluster.get(kind, []))
    except (ValueError, TypeError, LookupError, RecursionError):
        raise _bad_tf_config(text) from None
    if other:
        raise InputError(
            f"{TF_CONFIG}: only tasks of type chief and worker train; received "
            f"{', '.join(sorted(other))}"
        )
    if not fits:
        raise _bad_tf_config(text)
    return Cluster((*chief, *workers), index if kind == "chief" else len(chief) + index)


def _addresses(cluster: dict[str, Any], kind: str) -> list[str]:
    addresses = cluster.get(kind, [])
    if not isinstance(addresses, list) or not all(isinstance(each, str) for each in addresses):
        raise TypeError
    return addresses


def _bad_tf_config(text: str) -> InputError:
    return InputError(f"{TF_CONFIG}: cannot be used; {_TF_CONFIG_RULE}; received {text[:500]}")


def _from_slurm(environment: Environment) -> Cluster:
    """Return the tasks of this job step, ordered by node.

    Variables: https://slurm.schedmd.com/srun.html#SECTION_OUTPUT-ENVIRONMENT-VARIABLES
    """
    if "SLURM_STEP_NUM_TASKS" not in environment:
        raise InputError(
            "Slurm: this process is not a task of a job step; start the command with srun"
        )
    nodes = _parsed(environment, "SLURM_STEP_NODELIST", expand_hosts)
    tasks = _parsed(environment, "SLURM_STEP_TASKS_PER_NODE", expand_counts)
    count = _number(environment, "SLURM_STEP_NUM_TASKS")
    if len(nodes) != len(tasks) or sum(tasks) != count:
        raise InputError(
            "Slurm: the variables contradict each other: "
            f"SLURM_STEP_NODELIST={environment['SLURM_STEP_NODELIST']} names {len(nodes)} nodes, "
            f"SLURM_STEP_TASKS_PER_NODE={environment['SLURM_STEP_TASKS_PER_NODE']} has "
            f"{sum(tasks)} tasks on {len(tasks)}, and SLURM_STEP_NUM_TASKS is {count}"
        )
    ports = _slurm_ports(environment, max(tasks))
    addresses = [
        f"{node}:{port}" for node, size in zip(nodes, tasks, strict=True) for port in ports[:size]
    ]
    return Cluster(tuple(addresses), _slurm_index(environment, nodes, tasks))


def _slurm_index(environment: Environment, nodes: list[str], tasks: list[int]) -> int:
    """Return the index of this task in an order by node.

    SLURM_PROCID has this order only if `--distribution` is block.
    """
    if "SLURM_NODEID" not in environment or "SLURM_LOCALID" not in environment:
        return _number(environment, "SLURM_PROCID", below=sum(tasks))
    node = _number(environment, "SLURM_NODEID", below=len(nodes))
    name = environment.get("SLURMD_NODENAME", nodes[node])
    if name != nodes[node]:
        raise InputError(
            f"Slurm: SLURMD_NODENAME is {name}, but node {node} of SLURM_STEP_NODELIST is "
            f"{nodes[node]}; start the command with srun"
        )
    return sum(tasks[:node]) + _number(environment, "SLURM_LOCALID", below=tasks[node])


def _slurm_ports(environment: Environment, count: int) -> list[int]:
    """Return a port for each task of a node: reserved ones (`srun --resv-ports`), or calculated.

    Jobs that share a node must not have the same ports, so these depend on the ids of job and step.
    """
    if environment.get("SLURM_STEP_RESV_PORTS"):
        text = environment["SLURM_STEP_RESV_PORTS"]
        ports = _parsed(
            environment, "SLURM_STEP_RESV_PORTS", lambda text: expand_hosts(f"[{text}]")
        )
        if len(ports) < count:
            raise InputError(
                f"Slurm: SLURM_STEP_RESV_PORTS={text} has fewer ports than a node has tasks "
                f"({count}); give srun --resv-ports={count}"
            )
        return [*map(int, ports[:count])]
    job = _number(environment, "SLURM_JOB_ID") if "SLURM_JOB_ID" in environment else 0
    step = _number(environment, "SLURM_STEP_ID") if "SLURM_STEP_ID" in environment else 0
    # All workers calculate the same ports without talking to each other.
    first = (64 * job + 8 * step) % (len(FREE_PORTS) - count)
    return [*FREE_PORTS[first : first + count]]


def expand_hosts(text: str) -> list[str]:
    """Return the names in a compressed host list of Slurm, in order.

    Args:
        text: compressed host list, for example `login,n[1-3,07-08],r[0-1]c[0-1]`.

    Raises:
        ValueError: the brackets or the ranges are malformed.
    """
    parts = re.findall(r"(?:[^\[\],\s]|\[[^\[\]]*\])+", text)
    if ",".join(parts) != text or not parts:
        raise ValueError(text)
    return [name for part in parts for name in _expanded(part)]


def _expanded(part: str) -> Iterator[str]:
    """Yield the names of a part of a host list; the last brackets vary fastest."""
    pieces = re.split(r"\[([^\[\]]*)\]", part)
    choices = [[*_ranges(piece)] if i % 2 else [piece] for i, piece in enumerate(pieces)]
    yield from map("".join, itertools.product(*choices))


def _ranges(text: str) -> Iterator[str]:
    """Yield the numbers of `1-3,07`, with their leading zeros."""
    for part in text.split(","):
        bounds = re.fullmatch(r"(\d+)(?:-(\d+))?", part, re.ASCII)
        # Bounded: `n[0-99999999999]` would fill the memory.
        if not bounds or int(bounds[2] or bounds[1]) - int(bounds[1]) not in range(100_000):
            raise ValueError(text)
        first, last = int(bounds[1]), int(bounds[2] or bounds[1])
        yield from (str(number).zfill(len(bounds[1])) for number in range(first, last + 1))


def expand_counts(text: str) -> list[int]:
    """Return the numbers of `3(x2),1`, which are 3, 3, 1.

    Raises:
        ValueError: the text is malformed.
    """
    counts = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,6})(?:\(x(\d{1,6})\))?", part, re.ASCII)
        if not match:
            raise ValueError(text)
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def _from_kubernetes(environment: Environment) -> Cluster:
    """Return the pods of an Indexed Job, which a headless service makes reachable by name.

    https://kubernetes.io/docs/tasks/job/job-with-pod-to-pod-communication/
    """
    for name, value in ((_INDEX, "completionMode: Indexed sets it"),
                        (WORKERS, "set it to the Job's completions"),
                        (SERVICE, "set it to the pods' subdomain, a headless service"),
                        ("HOSTNAME", "the container runtime sets it")):  # fmt: skip
        if not environment.get(name):
            raise InputError(f"Kubernetes: the environment has no {name}; {value}")
    count = _number(environment, WORKERS)
    index = _number(environment, _INDEX, below=count)
    # A pod of an Indexed Job is called JOB-INDEX, so each knows the names of all others.
    job, _, suffix = environment["HOSTNAME"].rpartition("-")
    if suffix != str(index) or not job:
        raise InputError(
            f"Kubernetes: HOSTNAME {environment['HOSTNAME']} does not end with -{index}, the value "
            f"of {_INDEX}; an Indexed Job gives its pods such names, unless they use hostNetwork"
        )
    port = _number(environment, PORT) if environment.get(PORT) else DEFAULT_PORT
    service = environment[SERVICE]
    return Cluster(tuple(f"{job}-{pod}.{service}:{port}" for pod in range(count)), index)


def _parsed(environment: Environment, name: str, parse: Any) -> Any:
    """Return a variable's parsed value.

    Raises:
        InputError: the variable is missing, or `parse` raises `ValueError`.
    """
    text = environment.get(name, "")
    try:
        return parse(text)
    except ValueError:
        raise InputError(f"{name}={text}: cannot be parsed") from None


def _number(environment: Environment, name: str, below: int | None = None) -> int:
    """Return a variable's value, a number from 0 on.

    Raises:
        InputError: the variable is missing, not a number, or out of range.
    """
    text = environment.get(name, "")
    if not re.fullmatch(r"\d{1,10}", text, re.ASCII):
        raise InputError(f"{name}={text}: expected a number")
    if below is not None and int(text) >= below:
        raise InputError(f"{name}={text}: must be below {below}, the number of tasks there")
    return int(text)
