"""Run requests as a model server does, in a process with only TensorFlow and TF Text's ops.

Run by `serving.export.gate`, as a file and not as a module: `fresh_process.py SAVED_MODEL REQUESTS
ANSWERS`. REQUESTS is an `.npz` with a serialized `TensorProto` under each `NUMBER SIGNATURE NAME`;
ANSWERS has the outputs under the same names.
"""

import ctypes
import os
import signal
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

FORBIDDEN = ("keras", "keras_hub", "tf_keras", "clozeline", "pipeline", "model", "serving")
"""Packages that a model server does not have."""


class Forbid(MetaPathFinder, Loader):
    """Import hook that makes the import of `FORBIDDEN` packages fail.

    `find_spec` returns a spec, because TensorFlow calls it to locate Keras when it is imported.
    """

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Return a spec that cannot be loaded for forbidden names, and None for others."""
        del path, target
        is_forbidden = fullname.partition(".")[0] in FORBIDDEN
        return ModuleSpec(fullname, self) if is_forbidden else None

    def exec_module(self, module: ModuleType) -> None:
        """Raise ImportError."""
        raise ImportError(f"{module.__name__} is not there in a model server")


def load_text_ops() -> None:
    """Register TF Text's ops without importing its Python package, which imports Keras."""
    import tensorflow as tf

    spec = find_spec("tensorflow_text")
    assert spec is not None
    assert spec.origin is not None
    for library in sorted(Path(spec.origin).parent.glob("python/ops/_*.so")):
        tf.load_op_library(str(library))


def answer(saved_model: str, requests: str, answers: str) -> None:
    """Run all requests and write their outputs."""
    import numpy as np
    import tensorflow as tf
    from tensorflow.core.framework import tensor_pb2

    load_text_ops()
    os.chdir(saved_model)  # TensorFlow takes a path for a glob, and `[b]` in it matches only b
    signatures = tf.saved_model.load(".").signatures
    inputs_by_request: dict[tuple[str, str], dict[str, tf.Tensor]] = {}
    with np.load(requests, allow_pickle=False) as arrays:
        for key in arrays.files:
            number, signature, name = key.split(" ")
            tensor = tf.make_ndarray(tensor_pb2.TensorProto.FromString(arrays[key].tobytes()))
            inputs_by_request.setdefault((number, signature), {})[name] = tf.constant(tensor)
    answered = {}
    for (number, signature), inputs in inputs_by_request.items():
        for name, output in signatures[signature](**inputs).items():
            data = tf.make_tensor_proto(output.numpy()).SerializeToString()
            answered[f"{number} {signature} {name}"] = np.frombuffer(data, np.uint8)
    with open(answers, "wb") as file:  # noqa: PTH123  np.savez would add a suffix to a name
        np.savez(file, **answered)  # type: ignore[arg-type]  # as in gate.py


def end_with_parent() -> None:
    """Let the kernel end this process when the one that exports is gone, also by SIGKILL."""
    pr_set_pdeathsig = 1  # of prctl(2)
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


if __name__ == "__main__":
    end_with_parent()
    sys.meta_path.insert(0, Forbid())
    sys.path.pop(0)  # this file's directory, which Python adds for scripts
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    try:
        answer(*sys.argv[1:])
    except Exception as error:
        # The gate quotes the last line of standard error.
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")
