"""The cores that this process may use, and TensorFlow's threads where it does not see them."""

import os

INTRAOP_THREADS, INTEROP_THREADS = "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"
"""Environment variables that TensorFlow reads: threads of one operation, and operations at once."""


def usable_cores() -> int:
    """Return the number of cores that the scheduler and a container leave to this process.

    A container's limit on CPU time (`docker run --cpus`, Kubernetes' `limits.cpu`) hides no core.
    joblib reads it from the cgroup, and rounds it up.
    """
    import joblib  # 0.2 s: not for `--help`

    cores: int = joblib.cpu_count()
    return cores


def limited_threads() -> dict[str, str]:
    """Return environment variables, to be set before TensorFlow is imported: threads under a limit.

    TensorFlow starts a thread for each core that it sees. Under a limit on CPU time these use up
    the time of a period long before its end, and then all of them stop. Without a limit: {}.
    """
    cores = usable_cores()
    if cores >= len(os.sched_getaffinity(0)):
        return {}
    return {INTRAOP_THREADS: str(cores), INTEROP_THREADS: str(cores)}
