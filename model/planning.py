"""Estimate what a pretraining takes: examples, steps, disk, memory, time and cost.

Arithmetic without TensorFlow. What comes from a measurement or a data sheet says so next to the
number; `tests/model/test_planning.py` compares the memory with measured runs.

Letters: H hidden size, I feed-forward size, N heads, L positions per example, P masked positions,
V pieces, s bytes of the compute dtype.
"""

import math
import re
from dataclasses import dataclass

from model.bert.config import SIZES, BertConfig
from model.bert.flops import layer_matrices, muon_flops, step_flops
from model.training.config import ExecutionConfig, Optimizer, Precision, UpdateConfig, check_ranges
from pipeline.config_types import check_types
from pipeline.configs import POSITIONS_PER_PAIR, PreprocessConfig
from pipeline.errors import InputError, check_range, did_you_mean
from pipeline.schema import Masks


@dataclass(frozen=True)
class Device:
    """An accelerator.

    Attributes:
        peak_flops: FLOP/s of dense bfloat16 matrix products, from the maker's data sheet.
        memory_bytes: size of its memory.
    """

    peak_flops: float
    memory_bytes: float


DEVICES = {
    "A100": Device(312e12, 80e9),
    "H100": Device(989e12, 80e9),
    "H200": Device(989e12, 141e9),
    "L4": Device(121e12, 24e9),
    "TPU-v4": Device(275e12, 32e9),
    "TPU-v5e": Device(197e12, 16e9),
    "TPU-v5p": Device(459e12, 95e9),
    "TPU-v6e": Device(918e12, 32e9),
}

_BYTES: dict[Precision, int] = {"bfloat16": 2, "float16": 2, "float32": 4}

UNITS = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}

_PROSE_BYTES_PER_PIECE = 4.16  # measured on English books with 30,522 pieces
_FILLED = 0.80  # share of L - 3 that the pieces of a corpus fill, measured on 32 books at L = 128
# Shares of the positions of records that are no padding, measured on ten books at L = 128.
_REAL, _REAL_PACKED = 0.94, 0.99

# Weights, gradients and two moments in float32 take 16 bytes. The rest was measured on a CPU: what
# the update holds for a moment and, in bfloat16, the copies that matrices are multiplied in.
_BYTES_PER_PARAMETER: dict[Precision, int] = {"bfloat16": 22, "float16": 22, "float32": 20}

_PROCESS_BYTES = 1.2e9
"""Memory of a process that trains nothing yet: Python, TensorFlow, compiled steps. Measured on a
CPU."""

_CHECKPOINT_BYTES_PER_PARAMETER = 12  # weights and two moments, float32

# Muon has one moment of each matrix of a layer instead of two, in memory and in a checkpoint, and
# does not hold what the update takes for the other one.
_MUON_SAVED_BYTES, _MUON_SAVED_CHECKPOINT_BYTES = 6, 4


SMALLEST = 1e-6
"""Smallest share, price or size that is estimated with."""

MOST_BYTES = 1e21


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """The pretraining to plan.

    Attributes:
        text: size of the corpus, decompressed: a number with one of `UNITS`, such as `20GB`.
        devices: number and kind of devices, such as `8 x H100`; see `DEVICES`.
        model: name of the size.
        vocab_size: V, number of pieces.
        max_seq_length: L, positions per example.
        duplicates: passes of `preprocess` over the corpus.
        packing: whether a record holds several pairs.
        masks: `static`: masks are in the records. `dynamic`: training draws them.
        bytes_per_piece: bytes of text per WordPiece.
        batch_size: global batch size, over all devices.
        epochs: passes over the examples.
        steps: number of steps; None = from `epochs`.
        precision: compute dtype of matrix multiplications.
        optimizer: adamw, lamb or muon, as in `model.training.config.UpdateConfig`.
        recompute: gradient checkpointing.
        accumulation_steps: number of parts that a device's share of the batch is processed in.
        mfu: model FLOP utilization, above 0, to 1: the share of the devices' peak that the step's
            matrix products reach, with the time in which devices wait for each other.
        peak_tflops: peak of a device in TFLOP/s, instead of the data sheet's.
        price_per_hour: price of a device per hour; None = no cost.
    """

    text: str
    devices: str
    model: str = "base"
    vocab_size: int = 30522
    max_seq_length: int = 128
    duplicates: int = PreprocessConfig.duplicates
    packing: bool = PreprocessConfig.packing
    masks: Masks = PreprocessConfig.masks
    bytes_per_piece: float = _PROSE_BYTES_PER_PIECE
    batch_size: int = 256
    epochs: float = 40.0
    steps: int | None = None
    precision: Precision = "bfloat16"
    optimizer: Optimizer = UpdateConfig.optimizer
    recompute: bool = ExecutionConfig.recompute
    accumulation_steps: int = ExecutionConfig.accumulation_steps
    mfu: float = 0.4
    peak_tflops: float | None = None
    price_per_hour: float | None = None

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            InputError: a field is out of range, or a name is unknown.
        """
        check_types(self)
        if self.model not in SIZES:
            raise InputError(f"`model` {self.model}: expected {', '.join(SIZES)}")
        try:
            _ = self.config
        except ValueError as error:
            raise InputError(f"`vocab_size` {self.vocab_size}: {error}") from error
        check_ranges(
            self, duplicates=1, batch_size=1, steps=1, accumulation_steps=1, vocab_size=5
        )  # fmt: skip
        check_range("max_seq_length", self.max_seq_length, 5, self.config.max_position_embeddings)
        for name in ("bytes_per_piece", "epochs", "mfu", "peak_tflops", "price_per_hour"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"`{name}` {value:g}: must be above 0")
            if value is not None:
                check_range(name, value, SMALLEST)
        check_range("mfu", self.mfu, 0, 1)
        if not 1 <= self.text_bytes <= MOST_BYTES:
            raise InputError(f"`text` {self.text!r:.60}: must be at least 1 B, at most 10^9 TB")
        parts = self.count * self.accumulation_steps
        if self.batch_size % parts:
            raise InputError(
                f"`batch_size` {self.batch_size}: must be a multiple of {parts}, the devices times "
                "`accumulation_steps`"
            )
        if self.peak_tflops is None and self.kind not in DEVICES:
            raise InputError(
                f"`devices` {self.devices!r}: unknown kind; give `peak_tflops`"
                f"{did_you_mean(self.kind, DEVICES)}"
            )

    @property
    def text_bytes(self) -> float:
        """Size of the corpus in bytes."""
        match = re.fullmatch(rf"\s*([0-9]+(?:\.[0-9]+)?)\s*({'|'.join(UNITS)})\s*", self.text)
        if not match:
            raise InputError(
                f"`text` {self.text!r}: expected a number with one of {', '.join(UNITS)}, such as "
                "20GB"
            )
        return float(match[1]) * UNITS[match[2]]

    @property
    def count(self) -> int:
        """Number of devices."""
        return int(self._parsed[1] or 1)

    @property
    def kind(self) -> str:
        """Name of the devices."""
        return self._parsed[2]

    @property
    def _parsed(self) -> re.Match[str]:
        match = re.fullmatch(r"\s*(?:([1-9][0-9]{0,5})\s*x\s*)?(\S+)\s*", self.devices)
        if not match:
            raise InputError(
                f"`devices` {self.devices!r}: expected a number and a kind, such as '8 x H100'"
            )
        return match

    @property
    def config(self) -> BertConfig:
        """The model's hyperparameters."""
        return SIZES[self.model].config(self.vocab_size)

    @property
    def muon_parameters(self) -> int:
        """Number of weights that Muon updates: those of the layers' matrices."""
        if self.optimizer != "muon":
            return 0
        return self.config.num_hidden_layers * sum(map(math.prod, layer_matrices(self.config)))

    @property
    def max_predictions(self) -> int:
        """P, as `preprocess` chooses it by default."""
        return math.ceil(PreprocessConfig.mask_rate * self.max_seq_length)


@dataclass(frozen=True, kw_only=True)
class DeviceMemory:
    """Memory that a device needs, in bytes.

    Attributes:
        parameters: weights, gradients, moments, and copies of them.
        activations: tensors of a gradient-accumulation step that the backward pass needs.
        process: the rest: code, compiled steps.
    """

    parameters: float
    activations: float
    process: float

    @property
    def total(self) -> float:
        """The sum."""
        return self.parameters + self.activations + self.process


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Estimated resources of a pretraining.

    Attributes:
        parameters: number of weights.
        pieces: number of WordPieces of the corpus.
        examples: number of records.
        pairs: number of pairs in them: the same without packing.
        real_positions: share of positions that are no padding (0 to 1).
        steps: number of steps.
        epochs: passes over the examples in these steps.
        dataset_bytes: size of the dataset.
        checkpoint_bytes: size of a checkpoint.
        flops: FLOPs of all steps, without those of the optimizer, which the time has.
        step_secs: time of a step.
        total_secs: time of all steps.
        tokens_per_sec: positions per second, over all devices.
        input_bytes_per_sec: record bytes that all devices together read.
        memory: memory of a device; the larger of both peaks decides whether it fits.
        memory_with_recompute: the same with gradient checkpointing.
        device_bytes: memory that a device has; None = unknown.
        cost: price of all device hours; None = no price given.
    """

    parameters: int
    pieces: float
    examples: float
    pairs: float
    real_positions: float
    steps: int
    epochs: float
    dataset_bytes: float
    checkpoint_bytes: float
    flops: float
    step_secs: float
    total_secs: float
    tokens_per_sec: float
    input_bytes_per_sec: float
    memory: DeviceMemory
    memory_with_recompute: DeviceMemory
    device_bytes: float | None
    cost: float | None

    def fits(self, *, recompute: bool) -> bool | None:
        """Return whether a device has enough memory; None = unknown."""
        needed = self.memory_with_recompute if recompute else self.memory
        return None if self.device_bytes is None else needed.total <= self.device_bytes


def estimate(plan: PlanConfig) -> Estimate:
    """Estimate what a pretraining takes."""
    config, length = plan.config, plan.max_seq_length
    device = DEVICES.get(plan.kind)
    pieces = plan.text_bytes / plan.bytes_per_piece
    # L - 3 pieces at most: [CLS] and two [SEP] take the other positions.
    pairs = max(1.0, pieces * plan.duplicates / (_FILLED * (length - 3)))
    real_positions = _REAL_PACKED if plan.packing else _REAL
    examples = max(1.0, pairs * (_REAL / real_positions))
    steps = plan.steps or math.ceil(plan.epochs * examples / plan.batch_size)
    flops = step_flops(config, plan.batch_size, length, plan.max_predictions)
    peak = plan.peak_tflops * 1e12 if plan.peak_tflops else DEVICES[plan.kind].peak_flops
    # Each device computes its share of the batch, but all of the update.
    update_flops = muon_flops(config) if plan.optimizer == "muon" else 0.0
    step_secs = (flops / plan.count + update_flops) / (peak * plan.mfu)
    # Device hours: what providers charge for.
    hours = steps * step_secs * plan.count / 3600
    record_bytes = _record_bytes(plan)
    return Estimate(
        parameters=config.parameter_count,
        pieces=pieces,
        examples=examples,
        pairs=pairs,
        real_positions=real_positions,
        steps=steps,
        epochs=steps * plan.batch_size / examples,
        dataset_bytes=examples * record_bytes,
        checkpoint_bytes=_CHECKPOINT_BYTES_PER_PARAMETER * config.parameter_count
        - _MUON_SAVED_CHECKPOINT_BYTES * plan.muon_parameters,
        flops=flops * steps,
        step_secs=step_secs,
        total_secs=steps * step_secs,
        tokens_per_sec=plan.batch_size * length / step_secs,
        input_bytes_per_sec=plan.batch_size * record_bytes / step_secs,
        memory=device_memory(plan, recompute=False),
        memory_with_recompute=device_memory(plan, recompute=True),
        device_bytes=device.memory_bytes if device else None,
        cost=None if plan.price_per_hour is None else hours * plan.price_per_hour,
    )


def device_memory(plan: PlanConfig, *, recompute: bool) -> DeviceMemory:
    """Estimate the memory of a device for its share of a step.

    The sizes of a layer's tensors are those of its graph: inputs of the matrix products and of
    GELU, attention weights before and after the softmax.
    """
    config, size = plan.config, _BYTES[plan.precision]
    hidden, inner = config.hidden_size, config.intermediate_size
    examples = plan.batch_size // (plan.count * plan.accumulation_steps)
    positions = examples * plan.max_seq_length
    attention = 2 * config.num_attention_heads * plan.max_seq_length  # per position
    layer = positions * (12 * hidden + 2 * inner + attention) * size
    # The last layer's keys and values have all positions, the rest P + 1 of each example.
    gathered = examples * (plan.max_predictions + 1)
    last = (positions * 5 * hidden + gathered * (7 * hidden + 2 * inner + attention)) * size
    activations = 12 * positions * hidden  # embeddings, in float32
    activations += 3 * examples * plan.max_predictions * config.vocab_size * size  # logits
    if recompute:
        # With checkpointing, each layer's input stays, and one layer at a time is computed again.
        activations += config.num_hidden_layers * positions * hidden * size + layer
    else:
        activations += (config.num_hidden_layers - 1) * layer + last + layer
    return DeviceMemory(
        parameters=_BYTES_PER_PARAMETER[plan.precision] * config.parameter_count
        - _MUON_SAVED_BYTES * plan.muon_parameters,
        activations=activations,
        process=_PROCESS_BYTES,
    )


def _record_bytes(plan: PlanConfig) -> float:
    """Return the mean size of a record, measured on English books."""
    length = plan.max_seq_length
    size = 147 + 4.1 * length + 8.2 * plan.max_predictions
    if plan.packing:
        # Positions of pieces, and a position, label and weight of each pair.
        size += 119 + length + 6.5 * max(2, length // POSITIONS_PER_PAIR)
    if plan.masks == "dynamic":
        # Position, id and weight of each masked piece, and the names of these features.
        size -= 60 + 7.2 * plan.max_predictions
    return size
