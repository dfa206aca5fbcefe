"""`clozeline plan`: what a pretraining takes, before it is started."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from clozeline.commands.pretrain import RECIPES, Pretrain
from clozeline.options import Command, config_from
from clozeline.show.terminal import command, results, table
from model.planning import UNITS, Estimate, PlanConfig, estimate
from model.training.config import Optimizer
from pipeline.schema import Masks

_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0


@dataclass(frozen=True, kw_only=True)
class Planning(Command):
    """Estimate examples, steps, disk space, memory, time and cost of a pretraining.

    Nothing is read or started. Times follow from the FLOPs of a step, the devices' peak and --mfu;
    memory from the sizes of the model's tensors.
    """

    text: str
    """Size of the corpus, decompressed: a number with B, kB, MB, GB or TB, such as 20GB."""
    devices: str
    """Number and kind of devices, such as "8 x H100"; kinds: A100, H100, H200, L4, TPU-v4, TPU-v5e,
    TPU-v5p, TPU-v6e, or any name with --peak-tflops."""
    model: str = PlanConfig.model
    """Size of the model: tiny, mini, small, medium, base or large."""
    vocab_size: int = PlanConfig.vocab_size
    """Number of WordPieces."""
    max_seq_length: int = PlanConfig.max_seq_length
    """Positions per example (5 to 512)."""
    duplicates: int = PlanConfig.duplicates
    """Passes of preprocess over the corpus."""
    packing: bool = PlanConfig.packing
    """Plan with records of several pairs, as preprocess --packing writes them."""
    masks: Masks = PlanConfig.masks
    """static: masks are stored in the records. dynamic: they are not, so the dataset is smaller, as
    preprocess --masks dynamic writes it."""
    bytes_per_piece: float = PlanConfig.bytes_per_piece
    """Bytes of text per WordPiece; the default was measured on English books."""
    batch_size: int = PlanConfig.batch_size
    """Global batch size, over all devices."""
    epochs: float = PlanConfig.epochs
    """Passes over the examples; the default is that of the BERT paper."""
    steps: int | None = PlanConfig.steps
    """Number of steps, instead of --epochs."""
    precision: Literal["float32", "bfloat16", "float16"] = PlanConfig.precision
    """Compute dtype of matrix multiplications."""
    recipe: str | None = field(default=None, metadata={"presets": RECIPES, "presets_of": Pretrain})
    """Recipe of the training; of its values, only the optimizer changes the estimate."""
    optimizer: Optimizer = PlanConfig.optimizer
    """Optimizer. muon needs less memory than adamw, and each device does all of its products,
    however many devices there are."""
    recompute: bool = PlanConfig.recompute
    """Plan with gradient checkpointing."""
    accumulation_steps: int = PlanConfig.accumulation_steps
    """Gradient-accumulation steps of a device's share of a batch."""
    mfu: float = PlanConfig.mfu
    """Model FLOP utilization (above 0, to 1). The default is an assumption: `mfu` in metrics.jsonl
    of a short run is the real one."""
    peak_tflops: float | None = PlanConfig.peak_tflops
    """Peak of a device in TFLOP/s, instead of the data sheet's."""
    price_per_hour: float | None = PlanConfig.price_per_hour
    """Price of a device per hour, to print the cost."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: a flag is malformed or out of range.
        """
        if self.steps is not None:
            self.refuse_given("`steps` says how long to train; leave it out", "epochs")
        self.configuration()

    def configuration(self) -> PlanConfig:
        """Return what to plan for."""
        return config_from(self, PlanConfig)

    def run(self) -> dict[str, Any]:
        """Print the estimate, and return its numbers."""
        config = self.configuration()
        expected = estimate(config)
        title = f"{self.model} on {self.text} of text, {config.count} × {config.kind}"
        results.print(table(title, ["", "estimate"], _rows(config, expected)))
        # With all flags that the estimate depends on, so that this run is the estimated one.
        words: list[object] = [
            "pretrain", "--dataset", "DATASET", "--run", "RUN", "--model", self.model,
            "--batch-size", self.batch_size, "--steps", expected.steps,
            "--precision", self.precision,
        ]  # fmt: skip
        if self.accumulation_steps > 1:
            words += ["--accumulation-steps", self.accumulation_steps]
        words += ["--recompute"] * self.recompute
        words += ["--recipe", self.recipe] if self.recipe else []
        if self.recipe or self.optimizer != PlanConfig.optimizer:
            words += ["--optimizer", self.optimizer]
        results.print(command("clozeline", *words))
        return asdict(expected) | {"fits": expected.fits(recompute=self.recompute)}


def _rows(config: PlanConfig, expected: Estimate) -> list[list[object]]:
    rows: list[list[object]] = [
        ["parameters", expected.parameters],
        ["WordPieces in the text", f"{expected.pieces:.3g}"],
        [f"examples of {config.max_seq_length} positions", f"{expected.examples:.3g}"],
        ["real positions", f"{expected.real_positions:.0%}"],
        ["dataset", _size(expected.dataset_bytes)],
        ["steps", expected.steps],
        ["epochs", f"{expected.epochs:.3g}"],
        ["FLOPs", f"{expected.flops:.3g}"],
        ["time of a step", f"{expected.step_secs:.3g} s"],
        ["tokens/s, all devices", f"{expected.tokens_per_sec:,.0f}"],
        ["input that these need", f"{_size(expected.input_bytes_per_sec)}/s"],
        ["time", _duration(expected.total_secs)],
    ]
    if expected.cost is not None:
        rows.append(["cost", f"{expected.cost:,.2f}"])
    rows.append(["a checkpoint", _size(expected.checkpoint_bytes)])
    for name, memory in (
        ("memory of a device", expected.memory),
        ("… with --recompute", expected.memory_with_recompute),
    ):
        parts = f"parameters {_size(memory.parameters)}, activations {_size(memory.activations)}"
        rows.append([name, f"{_size(memory.total)} ({parts})"])
    fits = expected.fits(recompute=config.recompute)
    # Unknown for a device of which only --peak-tflops was given.
    if expected.device_bytes is not None:
        more = "more --accumulation-steps" + ("" if config.recompute else ", or --recompute")
        verdict = "yes" if fits else f"no: {more}"
        rows.append([f"fits into {_size(expected.device_bytes)}", verdict])
    return rows


def _size(count: float) -> str:
    # A rate may be below one byte a second, which is less than every unit.
    unit = max((unit for unit in UNITS if count >= UNITS[unit]), key=UNITS.__getitem__, default="B")
    return f"{count / UNITS[unit]:.3g} {unit}"


def _duration(secs: float) -> str:
    for unit, length in (("days", _DAY), ("hours", _HOUR), ("minutes", _MINUTE)):
        # From two of a unit on: "90.0 minutes" says more than "1.5 hours".
        if secs >= 2 * length:
            return f"{secs / length:,.1f} {unit}"
    return f"{secs:.1f} s"
