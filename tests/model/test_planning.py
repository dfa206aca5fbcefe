"""Estimates of a pretraining, compared with measured runs and with sums by hand."""

import pytest

from model.planning import PlanConfig, device_memory, estimate
from pipeline.errors import InputError

THE_BOOKS = f"{4_073_776 * 4.16 / 1e6} MB"


def wanted(**changes) -> PlanConfig:
    return PlanConfig(**{"text": "1GB", "devices": "1 x A100"} | changes)


@pytest.mark.parametrize(
    ("model", "batch_size", "precision", "recompute", "peak_kib"),
    [
        ("tiny", 2, "bfloat16", False, 1_137_916),
        ("mini", 8, "bfloat16", False, 1_308_080),
        ("mini", 32, "bfloat16", False, 1_483_388),
        ("mini", 64, "bfloat16", False, 1_735_716),
        ("small", 16, "bfloat16", False, 1_826_244),
        ("small", 64, "bfloat16", False, 2_517_644),
        ("small", 64, "bfloat16", True, 2_113_004),
        ("small", 32, "float32", False, 2_469_320),
    ],
)
def test_memory_is_that_of_measured_runs(model, batch_size, precision, recompute, peak_kib) -> None:
    """Peak resident memory of `pretrain --steps 12` on a CPU: L = 128, 8,000 pieces."""
    config = wanted(model=model, batch_size=batch_size, precision=precision, vocab_size=8000)
    memory = device_memory(config, recompute=recompute)
    assert memory.total == pytest.approx(peak_kib * 1024, rel=0.15)


@pytest.mark.parametrize(
    ("model", "precision", "kib"),
    [
        ("small", "bfloat16", 73_300),
        ("small", "float32", 69_280),
        ("medium", "bfloat16", 161_252),
        ("medium", "float32", 130_708),
    ],
)
def test_muon_saves_as_much_memory_as_in_measured_runs(model, precision, kib) -> None:
    """Peak resident memory of `pretrain --steps 12` on a CPU, with AdamW less that with Muon."""
    adamw, muon = (
        device_memory(wanted(model=model, precision=precision, optimizer=name), recompute=False)
        for name in ("adamw", "muon")
    )
    assert adamw.total - muon.total == pytest.approx(kib * 1024, rel=0.15)


def test_every_device_does_all_products_of_muon() -> None:
    """A step of BERT-base takes them 1.63 TFLOPs, however many devices share its batch."""
    for count in (1, 8):
        adamw, muon = (
            estimate(wanted(devices=f"{count} x A100", optimizer=name))
            for name in ("adamw", "muon")
        )
        assert muon.step_secs - adamw.step_secs == pytest.approx(1.63e12 / (312e12 * 0.4), rel=0.01)
        assert muon.flops == adamw.flops


def test_activations_are_those_of_a_part_of_a_device_s_share() -> None:
    whole = device_memory(wanted(batch_size=64), recompute=False)
    parts = wanted(batch_size=64, devices="4 x A100", accumulation_steps=2)
    part = device_memory(parts, recompute=False)
    assert part.activations == pytest.approx(whole.activations / 8)
    assert part.parameters == whole.parameters
    assert device_memory(wanted(batch_size=64), recompute=True).activations < whole.activations / 3


def test_the_figures_of_the_hardware_page() -> None:
    """BERT-base, 900,000 steps of 256 × 128: 515.8 MFLOPs per position, 1.52 × 10¹⁹ in all."""
    plan = estimate(wanted(devices="8 x A100", steps=900_000, price_per_hour=2.0))
    assert plan.parameters == 110_106_428
    assert plan.flops == pytest.approx(900_000 * 256 * 128 * 515.8e6, rel=1e-3)
    assert plan.total_secs == pytest.approx(plan.flops / (8 * 312e12 * 0.4))
    assert plan.step_secs == pytest.approx(plan.total_secs / 900_000)
    assert plan.tokens_per_sec == pytest.approx(256 * 128 / plan.step_secs)
    assert plan.cost == pytest.approx(plan.total_secs / 3600 * 8 * 2.0)
    assert plan.checkpoint_bytes == pytest.approx(1.32e9, rel=0.01)


def test_examples_and_steps_follow_from_the_text() -> None:
    # Measured: 4,073,776 pieces of 32 books gave 40,529 pairs of at most 128 positions.
    plan = estimate(wanted(text=THE_BOOKS, epochs=3.0, batch_size=32))
    assert plan.pieces == pytest.approx(4_073_776)
    assert plan.examples == pytest.approx(40_529, rel=0.02)
    assert plan.steps == pytest.approx(3 * 40_529 / 32, rel=0.02)
    assert plan.epochs == pytest.approx(3.0, rel=0.001)
    # Measured on 20 books with 30,522 pieces: 836 bytes per record of 128, 2,790 of 512.
    assert plan.dataset_bytes / plan.examples == pytest.approx(836, rel=0.02)
    long = estimate(wanted(max_seq_length=512))
    assert long.dataset_bytes / long.examples == pytest.approx(2790, rel=0.05)
    twice = estimate(wanted(text=THE_BOOKS, duplicates=2))
    assert twice.examples == pytest.approx(2 * plan.examples)


@pytest.mark.parametrize(("length", "difference"), [(64, 140.7), (128, 202.9), (512, 620.6)])
def test_dynamic_masks_are_not_in_the_records(length: int, difference: float) -> None:
    """Differences measured in bytes per record, on 20 books with 30,522 pieces."""
    static, dynamic = (
        estimate(wanted(text=THE_BOOKS, max_seq_length=length, masks=masks))
        for masks in ("static", "dynamic")
    )
    assert (dynamic.examples, dynamic.steps) == (static.examples, static.steps)
    saved = (static.dataset_bytes - dynamic.dataset_bytes) / static.examples
    assert saved == pytest.approx(difference, rel=0.07)
    assert dynamic.input_bytes_per_sec < static.input_bytes_per_sec


def test_packing_leaves_less_padding() -> None:
    """The same pairs and real positions in fewer records, 99 % of whose positions are real."""
    single, packed = (
        estimate(wanted(text=THE_BOOKS, packing=packing)) for packing in (False, True)
    )
    assert packed.pairs == single.pairs == single.examples
    assert packed.real_positions == 0.99
    assert packed.examples * 0.99 == pytest.approx(single.examples * single.real_positions)
    assert packed.steps < single.steps
    # A position of each piece, and at least three numbers of each of the 8 pairs of 128 positions.
    added = packed.dataset_bytes / packed.examples - single.dataset_bytes / single.examples
    assert added > 128 + 3 * 8


def test_whether_the_model_fits_the_memory() -> None:
    large = estimate(wanted(model="large", max_seq_length=512, batch_size=128))
    assert large.fits(recompute=False) is False
    assert large.fits(recompute=True) is True
    other = estimate(wanted(devices="2 x mine", peak_tflops=0.9))
    assert other.fits(recompute=False) is None
    assert other.cost is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"devices": "8 x H1000"}, "`devices` '8 x H1000': unknown kind; give `peak_tflops`; did"),
        ({"devices": "0 x A100"}, "`devices` '0 x A100': expected a number and a kind, such as"),
        ({"devices": ""}, "expected a number and a kind"),
        ({"devices": "3 x A100"}, "`batch_size` 256: must be a multiple of 3, the devices times"),
        ({"model": "huge"}, "`model` huge: expected tiny, mini, small, medium, base, large"),
        ({"mfu": 0.0}, "`mfu` 0: must be above 0"),
        ({"mfu": 1.5}, "`mfu` 1.5: must be from 0 to 1"),
        ({"epochs": float("inf")}, "`epochs` inf: must be above 0"),
        ({"price_per_hour": -1.0}, "`price_per_hour` -1: must be above 0"),
        ({"max_seq_length": 513}, "`max_seq_length` 513: must be from 5 to 512"),
        ({"text": "0GB"}, "`text` '0GB': must be at least 1 B"),
        ({"text": "9" * 400 + "GB"}, "must be at least 1 B, at most"),
        ({"epochs": 1e308}, "`epochs` 1e+308: must be at most"),
        ({"bytes_per_piece": 1e-300}, "`bytes_per_piece` 1e-300: must be at least"),
        ({"vocab_size": 10**15}, "`vocab_size` 1000000000000000: a model must have at most"),
        ({"text": "20Gb"}, "`text` '20Gb': expected a number with one of B, kB, MB, GB, TB"),
        ({"steps": 0}, "`steps` 0: must be at least 1"),
    ],
)
def test_plans_with_invalid_fields(changes, message) -> None:
    with pytest.raises(InputError) as caught:
        estimate(wanted(**changes))
    assert str(caught.value).startswith(message) or message in str(caught.value)
