"""Print the last losses of fine-tunings on a machine with two devices, as JSON.

    python tuned_losses.py FLAGS

FLAGS is JSON: the flags of each fine-tuning, by its name.

A process of its own, because logical devices are set before TensorFlow starts.
"""

import json
import sys
from pathlib import Path
from typing import Any

import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

from clozeline.commands.finetune import Finetune  # noqa: E402


def loss(flags: dict[str, Any]) -> float:
    flags = {name: tuple(v) if isinstance(v, list) else v for name, v in flags.items()}
    paths = {name: Path(flags[name]) for name in ("train", "dev", "init", "run_dir")}
    found: float = Finetune(**flags | paths).run()["loss"]
    return found


print(json.dumps({name: loss(flags) for name, flags in json.loads(sys.argv[1]).items()}))
