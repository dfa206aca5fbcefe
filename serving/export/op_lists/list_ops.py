"""Write the operations that a stock TensorFlow Serving runs on a CPU.

Run once a release, in an environment of its own:

    uv venv --python 3.11 build/serving-2.20
    uv pip install --python build/serving-2.20 tensorflow-cpu==2.20.0 tensorflow-text==2.20.1
    cd serving/export/op_lists && ../../../build/serving-2.20/bin/python list_ops.py > 2.20.txt

The server is built of TensorFlow's operations and kernels, and of TF Text's `ops_lib`, which has
those of all the libraries in TF Text's wheel (tensorflow_text/BUILD). Listed is what has a kernel
for a CPU, with the names of its attributes: a server refuses a node with one that it does not know.

Operations whose name begins with `_` are put in by the graph optimizer; a saved graph may hold them
too, as the int8 products do. Their kernels are oneDNN's, which the server for x86 is built with as
the wheel is (TensorFlow's `--config=release_cpu_linux`); that was not checked on a server binary.
"""

import tensorflow as tf
import tensorflow_text
from tensorflow.core.framework import op_def_pb2
from tensorflow.python.client import pywrap_tf_session
from tensorflow.python.framework import kernels


def main() -> None:
    """Print the list."""
    listed = pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList())
    on_cpu = {
        kernel.op
        for kernel in kernels.get_all_registered_kernels().kernel
        # DEFAULT: any device. Only the graph optimizer selects a kernel by its label.
        if kernel.device_type in ("CPU", "DEFAULT") and not kernel.label
    }
    print(f"# TensorFlow {tf.__version__}, TF Text {tensorflow_text.__version__}")
    print(f"# graph versions {tf.version.GRAPH_DEF_VERSION_MIN_PRODUCER}", end=" ")
    print(f"to {tf.version.GRAPH_DEF_VERSION}")
    for op in sorted(op_def_pb2.OpList.FromString(listed).op, key=lambda op: op.name):
        if op.name in on_cpu:
            print(op.name, *sorted(attribute.name for attribute in op.attr))


if __name__ == "__main__":
    main()
