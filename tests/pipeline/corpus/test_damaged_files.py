"""Truncated and corrupt corpus files: refused by name, or skipped and counted."""

import bz2
import gzip
import json
import lzma
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from clozeline.main import main
from pipeline.corpus import readers
from pipeline.corpus.decompression import open_file
from pipeline.corpus.readers import byte_ranges, read_line_documents, read_lines, read_whole_file
from pipeline.errors import DamagedFileError
from pipeline.manifest import read_manifest
from tests.conftest import make_sentences

Compress = Callable[[bytes], bytes]

COMPRESS: dict[str, Compress] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
    "zst": zstandard.ZstdCompressor(write_checksum=True).compress,
    "deflate": zlib.compress,
}

CUT = "ends in the middle of the compressed stream"

DATA = b"".join(b"%d is followed by %d\n" % (n, Random(n).getrandbits(64)) for n in range(20_000))


@pytest.fixture(params=COMPRESS)
def ending(request: pytest.FixtureRequest) -> str:
    return request.param


@cache
def compressed(ending: str) -> bytes:
    return COMPRESS[ending](DATA)


@pytest.fixture
def packed(ending: str) -> bytes:
    return compressed(ending)


def unpacked(folder: Path, ending: str, data: bytes) -> bytes:
    path = folder / f"a.{ending}"
    path.write_bytes(data)
    with open_file(str(path)) as file:
        return file.read()


def test_streams_one_after_another_and_padding(ending: str, packed: bytes, tmp_path: Path) -> None:
    """What `cat a.gz b.gz` gives, and the zeros that tapes and block devices add."""
    assert unpacked(tmp_path, ending, packed) == DATA
    assert unpacked(tmp_path, ending, packed + packed) == DATA + DATA
    assert unpacked(tmp_path, ending, packed + bytes(512)) == DATA
    assert unpacked(tmp_path, ending, packed + bytes(512) + packed) == DATA + DATA
    assert unpacked(tmp_path, ending, COMPRESS[ending](b"")) == b""


@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_a_truncated_stream_is_detected(
    share: float, ending: str, packed: bytes, tmp_path: Path
) -> None:
    cut = packed[: 1 + int(share * (len(packed) - 2))]
    for data in (cut, packed + cut):
        with pytest.raises(DamagedFileError, match=rf"a\.{ending}: {CUT}"):
            unpacked(tmp_path, ending, data)


def test_a_file_without_a_stream_is_detected(ending: str, tmp_path: Path) -> None:
    """`gzip -t`, `bzip2 -t`, `xz -t` and `zstd -t` refuse a file of 0 bytes too."""
    with pytest.raises(DamagedFileError, match=rf"a\.{ending}: has 0 bytes"):
        unpacked(tmp_path, ending, b"")


@pytest.mark.parametrize("where", [0.3, 0.7])
def test_a_changed_byte_is_detected(
    where: float, ending: str, packed: bytes, tmp_path: Path
) -> None:
    if ending == "lzma":
        pytest.skip("the format has no checksum")
    flipped = bytearray(packed)
    flipped[int(where * len(flipped))] ^= 16
    for data in (bytes(flipped), packed + bytes(flipped)):
        with pytest.raises(DamagedFileError, match=rf"a\.{ending}: is not intact"):
            unpacked(tmp_path, ending, data)


def test_trailing_data_after_the_stream_is_detected(
    ending: str, packed: bytes, tmp_path: Path
) -> None:
    for data in (packed + b"appended\n", b"never compressed\n"):
        with pytest.raises(DamagedFileError, match=rf"a\.{ending}: is not intact .* rename it"):
            unpacked(tmp_path, ending, data)


def test_a_large_compressed_book_is_read_to_its_end(tmp_path: Path) -> None:
    book = b"It was a dark and stormy night. " * (600_000)  # 19 MB; Beam's `read()` stops at 16
    (tmp_path / "book.gz").write_bytes(gzip.compress(book, 1))
    assert list(read_whole_file(str(tmp_path / "book.gz"))) == [book]


@pytest.mark.parametrize("reader", [read_lines, read_line_documents, read_whole_file])
def test_a_file_that_shrinks_is_detected(
    reader: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "RANGE_BYTES", 8)
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\n\ntwo\n\nthree\n\nfour\n")
    parts = list(byte_ranges(str(path), path.stat().st_size))
    path.write_bytes(b"one\n\ntwo\n\nthr")
    with pytest.raises(DamagedFileError, match=r"a\.txt: ends after 13 bytes"):
        _ = [[*reader(*part)] for part in parts]


TEXTS = [" ".join(make_sentences(Random(n), "sea", 4)) for n in range(300)]


def corpus(folder: Path, input_format: str) -> bytes:
    if input_format == "parquet":
        table = pyarrow.table({"text": TEXTS})
        pyarrow.parquet.write_table(table, folder / "table", row_group_size=60)
        return (folder / "table").read_bytes()
    if input_format == "jsonl":
        return "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()
    separator = "\n\n" if input_format == "lines" else " "
    return separator.join(TEXTS).encode()


def run(command: str, inputs: Path, vocab: Path, output: Path, *more: str) -> int:
    where = ["--input", str(inputs), "--output", str(output)]
    if command == "vocab":
        return main(["vocab", *where, "--size", "90", *more])
    how = ["--vocab", str(vocab), "--eval-rate", "0", "--shards", "1", "--max-seq-length", "32"]
    return main(["preprocess", *where, *how, *more])


@pytest.mark.parametrize("command", ["preprocess", "vocab"])
@pytest.mark.parametrize("input_format", ["prose", "lines", "jsonl", "parquet"])
@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zst"])
def test_a_truncated_file_is_a_one_line_error(
    kind: str,
    input_format: str,
    command: str,
    vocab_path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    packed = COMPRESS[kind](corpus(tmp_path, input_format))
    inputs = tmp_path / "in"
    inputs.mkdir()
    (inputs / f"whole.{kind}").write_bytes(packed)
    (inputs / f"cut.{kind}").write_bytes(packed[: len(packed) // 2])
    flags = ["--input-format", input_format]
    assert run(command, inputs / "*", vocab_path, tmp_path / "out", *flags) == 2
    said = capsys.readouterr().err
    assert f"clozeline: --input {inputs}/cut.{kind}: {CUT}; get" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
@pytest.mark.parametrize("command", ["preprocess", "vocab"])
def test_a_truncated_file_is_a_one_line_error_from_worker_processes(
    command: str, vocab_path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    packed = COMPRESS["gz"](corpus(tmp_path, "jsonl"))
    (tmp_path / "cut.gz").write_bytes(packed[: len(packed) // 2])
    flags = ["--input-format=jsonl", "--direct_running_mode=multi_processing"]
    flags.append("--direct_num_workers=2")
    assert run(command, tmp_path / "cut.gz", vocab_path, tmp_path / "out", *flags) == 2
    said = capfd.readouterr().err
    assert f"clozeline: --input {tmp_path}/cut.gz: {CUT}; get" in said.splitlines()[-1]
    assert "Traceback" not in said


def test_a_skipped_file_is_used_up_to_the_damage_and_counted(
    vocab_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = gzip.compress(corpus(tmp_path, "jsonl"))
    inputs = tmp_path / "in"
    inputs.mkdir()
    (inputs / "whole.gz").write_bytes(packed)
    (inputs / "cut.gz").write_bytes(packed[: len(packed) // 2])
    flags = ["--input-format", "jsonl", "--skip-damaged-files", "--json"]
    readable = zlib.decompressobj(31).decompress(packed[: len(packed) // 2]).count(b"\n")
    assert 50 < readable < 250
    assert run("preprocess", inputs / "*", vocab_path, tmp_path / "ds", *flags) == 0
    said = capsys.readouterr()
    manifest = read_manifest(tmp_path / "ds")
    assert manifest.dropped_documents == {"damaged_file": 1}
    assert manifest.statistics["train"]["documents"] == 300 + readable
    (warning,) = json.loads(said.out)["warnings"]
    assert warning.startswith(f"{inputs}/cut.gz: damaged")
    assert f"warning: {warning}" in said.err
    assert run("vocab", inputs / "*", vocab_path, tmp_path / "v.txt", *flags) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["dropped_documents"] == {"damaged_file": 1}


def test_a_damaged_row_group(
    vocab_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bytearray(corpus(tmp_path, "parquet"))
    group = pyarrow.parquet.ParquetFile(tmp_path / "table").metadata.row_group(2).column(0)
    start = group.dictionary_page_offset or group.data_page_offset
    data[start : start + 40] = bytes(40)
    (tmp_path / "c.parquet").write_bytes(data)
    flags = ["--input-format", "parquet"]
    assert run("preprocess", tmp_path / "c.parquet", vocab_path, tmp_path / "ds", *flags) == 2
    assert (
        f"--input {tmp_path}/c.parquet: not a Parquet file, or a damaged one"
        in capsys.readouterr().err
    )
    flags.append("--skip-damaged-files")
    assert run("preprocess", tmp_path / "c.parquet", vocab_path, tmp_path / "ds", *flags) == 0
    manifest = read_manifest(tmp_path / "ds")
    assert manifest.dropped_documents == {"damaged_file": 1}
    assert manifest.statistics["train"]["documents"] == 240


def test_vocab_reports_skipped_documents(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.jsonl").write_text('{"text": "A boat."}\n{"text": 5}\n{\n')
    flags = ["--input-format", "jsonl", "--size", "20"]
    where = ["--input", str(tmp_path / "c.jsonl"), "--output", str(tmp_path / "v.txt")]
    assert main(["vocab", *where, *flags]) == 0
    assert "documents dropped: 1 invalid_json, 1 no_text" in capsys.readouterr().out
