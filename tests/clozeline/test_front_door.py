"""The `clozeline` command itself: help, flags, settings files, one-line errors."""

import argparse
import contextlib
import dataclasses
import importlib
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pytest
import tyro
import yaml
from apache_beam.options.pipeline_options import PipelineOptions

import clozeline
from clozeline.main import COMMANDS, main, parse
from model.bert.config import BertConfig
from model.run_config import RunConfig, TextFacts
from pipeline.errors import InputError


def run(
    *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "clozeline", *arguments],
        capture_output=True,
        text=True,
        env=environment,
    )


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    return lines[0]


def test_a_name_with_control_characters_is_shown_escaped(
    tmp_path: Path, without_tensorflow: dict[str, str]
) -> None:
    (tmp_path / "a\nb\x1b[2J").write_bytes(b"")
    for path in ("a\nb\x1b[2J", "a\nb\x1b[2J/new"):
        words = ["preprocess", "--input", "i", "--vocab", "v", "--output", path]
        done = subprocess.run(
            [sys.executable, "-m", "clozeline", *words],
            capture_output=True, env=without_tensorflow, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 2
        assert done.stderr.count(b"\n") == 1
        assert rb"a\nb\x1b[2J" in done.stderr
        assert b"\x1b" not in done.stderr


def test_help_names_every_command() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


def test_a_closed_pipe_causes_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "clozeline", "--help"], stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_of_a_command_imports_nothing_heavy(command: str) -> None:
    script = (
        "import sys\nfrom clozeline.main import main\n"
        f"try: main([{command!r}, '--help'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = {'tensorflow', 'keras', 'apache_beam', 'numpy', 'starlette'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--config" in done.stdout
    assert "--json" in done.stdout


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_texts_are_broken_only_where_a_line_is_full(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    lines = [line.rstrip(" │") for line in capsys.readouterr().out.splitlines()]
    column = next(line.find("show this help") for line in lines if "show this help" in line)
    continued = 0
    for line, after in itertools.pairwise(lines):
        if after[column:] and not after[:column].strip(" │") and line[column - 2 : column] == "  ":
            continued += 1
            # Two columns are the border on the right.
            assert len(line) + 1 + len(after.strip(" │").split()[0]) > 100 - 2, (line, after)
    assert continued


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_says_each_default_once_in_words_or_as_a_value(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "(default: False)" in text
    assert "None" not in text
    assert not re.findall(r"\(default: (?:''|inf)?\)", text)
    assert not re.findall(r"Default:(?:(?! --\w).)*\(default:", text)


@pytest.mark.parametrize(
    ("words", "columns"),
    [
        (["--help"], "1"),  # tyro never returned below 8
        (["--help"], "7"),
        (["--text=1GB", "--devices=8 x H100"], "0"),  # rich printed nothing
        (["--text=1GB", "--devices=8 x H100"], "20"),
    ],
)
def test_a_terminal_too_narrow_for_tables_and_help(words: list[str], columns: str) -> None:
    """It gets what one of 40 columns gets."""

    def printed(columns: str) -> str:
        command = [sys.executable, "-m", "clozeline", "plan", *words]
        environment = os.environ | {"COLUMNS": columns}
        return subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=120, check=True
        ).stdout

    expected = printed("40")
    assert expected.count("\n") > 10
    assert printed(columns) == expected


def test_the_keras_of_other_programs_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    assert main(["inspect", str(tmp_path / "missing")]) == 2
    assert os.environ["KERAS_BACKEND"] == "tensorflow"
    assert "TF_USE_LEGACY_KERAS" not in os.environ


def test_garbage_is_not_looked_for_at_the_end() -> None:
    script = (
        "import atexit, gc\nfrom clozeline import start\n"
        "before = gc.get_freeze_count()\n"  # Python 3.12 freezes objects of its own
        "atexit.register(lambda: print('frozen', gc.get_freeze_count() > len(gc.get_objects())))\n"
        "assert start.main(['--help']) == 0 and gc.get_freeze_count() == before\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("frozen True\n")


@pytest.mark.parametrize(("flags", "told"), [(["--frozen-weights"], "1"), ([], None)])
def test_onednn_assumes_frozen_weights_only_if_requested(
    flags: list[str], told: str | None, tmp_path: Path
) -> None:
    # A stand-in for TensorFlow prints what TensorFlow reads when it is imported. Without the second
    # setting memory is never given back; without the third, clients can fill the log; without the
    # others, short texts take longer.
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text(
        "import os\n"
        "print(os.environ.get('TF_ONEDNN_ASSUME_FROZEN_WEIGHTS'))\n"
        "print(os.environ['TF_ONEDNN_USE_SYSTEM_ALLOCATOR'])\n"
        "print(os.environ['GRPC_VERBOSITY'])\n"
        "print(os.environ['TF_ONEDNN_THREADPOOL_USE_CALLER_THREAD'])\n"
        "print(os.environ['TF_NUM_INTRAOP_THREADS'])\n"
        "raise SystemExit\n"
    )
    (tmp_path / "models" / "m" / "1").mkdir(parents=True)
    where = ["--embedded", "--models", str(tmp_path / "models")]
    done = run("serve", *where, *flags, environment=os.environ | {"PYTHONPATH": str(tmp_path)})
    # A layer has two parts.
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    assert done.stdout.split() == [str(told), "1", "NONE", "1", str(threads)]


def test_tensorflow_is_told_the_limit_of_a_container(tmp_path: Path) -> None:
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text(
        "import os\n"
        "print(os.environ['TF_NUM_INTRAOP_THREADS'], os.environ['TF_NUM_INTEROP_THREADS'])\n"
        "raise SystemExit\n"
    )
    # joblib's own variable stands in for a cgroup. What the user has set stays.
    limited = {"PYTHONPATH": str(tmp_path), "LOKY_MAX_CPU_COUNT": "1"}
    (tmp_path / "text").write_text("A fox.\n")
    command = ["vocab", "--input", str(tmp_path / "text"), "--output", str(tmp_path / "vocab.txt")]
    for users, printed in (({}, "1 1"), ({"TF_NUM_INTRAOP_THREADS": "3"}, "3 1")):
        done = run(*command, environment=os.environ | limited | users)
        assert done.stdout.strip() == (printed if len(os.sched_getaffinity(0)) > 1 else "")


def test_no_command_shows_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: clozeline COMMAND" in capsys.readouterr().out


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown command 'preproces'; did you mean preprocess?" in error_of(capsys, "preproces")


def test_unknown_flag(capsys: pytest.CaptureFixture[str]) -> None:
    error = error_of(capsys, "inspect", "folder", "--exemples", "3")
    assert error == (
        "clozeline: unknown flag --exemples; did you mean --examples? "
        "(see clozeline inspect --help)"
    )


@pytest.mark.parametrize(
    ("arguments", "flag", "meant"),
    [
        # Before a text, before its own value, instead of a required flag, with a value behind =.
        ("query --modle m hello", "--modle", "--model"),
        ("explain --runn r hello", "--runn", "--run"),
        ("inspect --exmples 3 folder", "--exmples", "--examples"),
        ("pretrain --datset d --run r", "--datset", "--dataset"),
        ("finetune --task single --trian=t --init i --run r", "--trian", "--train"),
        ("serve --models m --rest_prt=3", "--rest_prt", "--rest-port"),
        ("evaluate -run r --data d", "-run", "--run"),
        ("export --run r --output o --no-jsn", "--no-jsn", "--no-json"),
        # Of commands that pass other flags on to Beam.
        ("vocab --input a --ouput b", "--ouput", "--output"),
        ("preprocess --input a --vocab b --output c --dupliactes 3", "--dupliactes",
         "--duplicates"),
    ],
)  # fmt: skip
def test_a_misspelled_flag_is_named_and_corrected(
    arguments: str, flag: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *others = arguments.split()
    assert error_of(capsys, name, *others) == (
        f"clozeline: unknown flag {flag}; did you mean {meant}? (see clozeline {name} --help)"
    )


@pytest.mark.parametrize("text", ["-- he said", "--- a divider", "-5 degrees", "— he said"])
def test_a_text_may_begin_with_dashes(text: str) -> None:
    options, _ = parse("query", ["--model", "m", text])
    assert list(vars(options)["text"]) == [text]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        # tyro would take the value for a text.
        ("query --model m --json=3 hello", "--json=3: takes no value; write --json or --no-json"),
        ("pretrain --dataset d --run r --xla=false",
         "--xla=false: takes no value; write --xla or --no-xla"),
        ("pretrain --help=x", "--help=x: takes no value; write --help"),
        ("vocab --input a --output b --no-overwrite=1",
         "--no-overwrite=1: takes no value; write --overwrite or --no-overwrite"),
        ("pretrain --dataset d --run r --xla false",
         "unexpected argument 'false' (see clozeline pretrain --help)"),
        ("inspect a b", "unexpected argument 'b' (see clozeline inspect --help)"),
    ],
)  # fmt: skip
def test_a_value_that_belongs_to_no_flag(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert error_of(capsys, *arguments.split()) == f"clozeline: {message}"


def test_no_flag_of_beam_is_taken_for_a_misspelled_one() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    for kind in (PipelineOptions, *PipelineOptions.__subclasses__()):
        kind._add_argparse_args(parser)
    flags = [f"{flag}=1" for flag in parser._option_string_actions if flag.startswith("--")]
    assert len(flags) > 100
    for required in (
        ["vocab", "--input", "a", "--output", "b"],
        ["preprocess", "--input", "a", "--vocab", "b", "--output", "c"],
    ):
        _, unknown = parse(required[0], [*required[1:], *flags])
        assert unknown == flags


def test_a_flag_unknown_to_us_and_to_beam(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("Text.")
    flags = ["--input", str(tmp_path / "a.txt"), "--output", str(tmp_path / "v.txt"), "--runer=X"]
    assert "unknown flag --runer=X: neither this command nor Apache Beam" in error_of(
        capsys, "vocab", *flags
    )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--steps"], "Missing from clozeline preprocess: --input"),  # Beam is asked about it later
        (["--input", "a", "--vocab", "v"], "--output"),
        (["--input", "a", "--vocab", "v", "--output", "o", "--seed", "x"], "--seed"),
        (["--input", "a", "--vocab", "v", "--output", "o", "--mask-rate", "2"],
         "--mask-rate 2.0: must be from 0 to 1"),
        (["--input", "a", "--vocab", "v", "--output", "o", "--input-format", "csv"],
         "--input-format"),
    ],
)  # fmt: skip
def test_bad_flags_are_one_line(
    flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in error_of(capsys, "preprocess", *flags)


def test_bad_flags_of_the_demo(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    where = ["--output", str(tmp_path / "demo")]
    assert "--steps 0: must be from 1" in error_of(capsys, "demo", *where, "--steps", "0")
    assert not (tmp_path / "demo").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    assert "no demo created it" in error_of(capsys, "demo", "--output", str(tmp_path / "mine"))
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_config_file_gives_flags_and_the_command_line_wins(tmp_path: Path) -> None:
    config = tmp_path / "settings.yaml"
    config.write_text(
        "input: [a.txt, b.txt]\nvocab: v.txt\noutput: ds\n"
        "mask-rate: 0.3\nlower_case: false\nseed: 5\n"
    )
    options, unknown = parse("preprocess", ["--seed", "7", "--config", str(config)])
    assert unknown == []
    assert parse("preprocess", ["--seed=7", f"--config={config}"])[0] == options
    assert options.input == ("a.txt", "b.txt")
    assert (options.mask_rate, options.lower_case, options.seed) == (0.3, False, 7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sead: 5", r"unknown option 'sead'; did you mean seed\?"),
        ("config: other.yaml", "unknown option 'config'"),
        ("- 5", "expected a mapping"),
        ("a: [", "cannot be read as YAML"),
        ("language: no", r"option 'language' is False to YAML; put the word in quotes"),
        ("lower_case: maybe", "option 'lower_case' is 'maybe'; expected true or false"),
        ("text_column:", "option 'text_column' has no value"),
        ("seed: [1, 2]", r"option 'seed' is \[1, 2\]; expected a single value"),
        ("input: [[a]]", r"option 'input' is \['a'\]; expected a single value"),
        ("vocab: {a: b}", r"option 'vocab' is {'a': 'b'}; expected a single value"),
        ("seed: 1\nseed: 2", "line 2: seed stands in line 1, too"),
        ("mask-rate: 0.1\nmask_rate: 0.2", "option 'mask_rate' appears twice"),
        ("seed: 010", "010 is a number with the base 8"),
        ("seed: 2026-99-99", "cannot be read as YAML: month must be in"),
        ("seed: " + "9" * 5000, "cannot be read as YAML: Exceeds the limit"),
        ("seed: " + "[" * 5000, "cannot be read as YAML: nested too deeply"),
        ("seed: !!timestamp x", "cannot be read as YAML: "),
        ("seed: !!int ''", "cannot be read as YAML: "),
        ("#" * (1 << 20) + "\n", "larger than 1,048,576 bytes"),
        # Ten lines that stand for a list of 10^9 items.
        (
            "a: &a0 [x]\n"
            + "".join(f"b{n}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]\n" for n in range(9)),
            "unknown option 'a'",
        ),
        (
            "vocab: [&a [x], &b [*a, *a, *a, *a, *a, *a, *a], [*b, *b, *b, *b, *b, *b, *b]]",
            r"option 'vocab' is \[\['x'\], .*; expected a single value",
        ),
    ],
)
def test_bad_config_file(text: str, message: str, tmp_path: Path) -> None:
    config = tmp_path / "settings.yaml"
    config.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        parse("preprocess", ["--config", str(config)])
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)


def options_of(command: str) -> Any:
    entry = COMMANDS[command]
    return getattr(importlib.import_module(entry.module), entry.options)


def plain(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def example(field: dataclasses.Field, kind: Any) -> Any:
    """A value that an option can have, other than its default, as YAML has it."""
    if get_origin(kind) is Literal:
        return next((c for c in get_args(kind) if c != field.default), field.default)
    if get_origin(kind) is tuple:
        return [example(field, plain(get_args(kind)[0]))]
    if type(None) in get_args(kind):
        return example(field, plain(get_args(kind)[0]))
    if kind is bool:
        return not field.default
    return {int: 9, float: 0.25, str: "-word", Path: "-some/path"}[kind]


def words(flag: str, hint: Any, value: Any) -> list[str]:
    """How a person types an option."""
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    if tyro.conf.Positional in getattr(hint, "__metadata__", ()):
        return ["--", *value] if isinstance(value, list) else ["--", value]
    one = value[0] if isinstance(value, list) else value
    return [f"--{flag}={one}"]


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (command, field.name)
        for command in sorted(COMMANDS)
        for field in dataclasses.fields(options_of(command))
        if field.name not in ("config", "given")
    ],
)
def test_every_option_is_accepted_in_a_config_file(command: str, name: str, tmp_path: Path) -> None:
    """With only the required options, it equals the same option on the command line."""
    options = options_of(command)
    hints = get_type_hints(options, include_extras=True)
    config, typed = {}, []
    for field in dataclasses.fields(options):
        if field.name == name or field.default is dataclasses.MISSING:
            flag = field.metadata.get("flag", field.name)
            value = example(field, plain(hints[field.name]))
            config[flag] = value
            part = words(flag.replace("_", "-"), hints[field.name], value)
            typed = [*typed, *part] if part[0] == "--" else [*part, *typed]
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    flags = ["--config", str(tmp_path / "c.yaml")]
    assert outcome(command, flags) == outcome(command, typed)


def outcome(command: str, arguments: list[str]) -> Any:
    """Return the parsed options, or the error message."""
    try:
        options, unknown = parse(command, arguments)
    except InputError as error:
        return str(error)
    assert unknown == []
    return {**vars(options), "config": None, "given": options.given - {"config"}}


def test_the_command_line_wins_over_positional_options(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("dataset: one\nexamples: 5\n")
    flags = ["--config", str(tmp_path / "c.yaml")]
    assert parse("inspect", flags)[0].dataset == Path("one")
    for arguments in (["two", *flags], [*flags, "two"]):
        options = parse("inspect", arguments)[0]
        assert (options.dataset, options.examples) == (Path("two"), 5)
    (tmp_path / "c.yaml").write_text("text: [one, two]\nmodel: m\n")
    assert parse("query", flags)[0].text == ("one", "two")
    assert parse("query", ["three", *flags])[0].text == ("three",)


def test_yaml_null_means_none_for_optional_options(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("input: a\nvocab: v\noutput: o\nid_column: null\nshards: ~\n")
    options, _ = parse("preprocess", ["--config", str(tmp_path / "c.yaml")])
    assert (options.id_column, options.shards) == (None, None)


NO_FILE = "cannot be read: No such file or directory"
NO_RUN = "no run (no config.json); make one with clozeline pretrain or finetune"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("preprocess --input {} --vocab v --output o",
         "--input {}: no file matches; check the path and the quotes"),
        ("inspect {}", "{}: no finished dataset (no manifest.json); make one with clozeline "
         "preprocess"),
        ("evaluate --run {} --data d", f"{{}}: {NO_RUN}"),
        ("explain --run {} text", f"{{}}: {NO_RUN}"),
        ("export --run {} --output o", f"{{}}: {NO_RUN}"),
        ("export-hf --run {} --output o", f"{{}}: {NO_RUN}"),
        ("pretrain --dataset {} --run r", "{}: no finished dataset (no manifest.json); make one "
         "with clozeline preprocess"),
        ("pretrain --dataset d --run r --init {}", "--init {}: no such run or checkpoint"),
        ("pretrain --dataset d --run r --teacher {}", "--teacher {}: no such run or checkpoint"),
        ("finetune --task single --train t --run r --init {}",
         "--init {}: no such run or checkpoint"),
        ("import --from {} --run r", "{}: does not exist"),
        ("pretrain --dataset d --run r --model {}.json",
         "--model {}.json: cannot be used: No such file or directory"),
        ("pretrain --dataset d --run r --model {}",
         "--model {}: expected tiny, mini, small, medium, base, large, or a .json file"),
        ("finetune --task single --init . --run r --train {}", f"--train {{}}: {NO_FILE}"),
        ("finetune --task single --init . --run r --train /", "--train /: cannot be read: Is a "
         "directory"),
        ("preprocess --input /etc/passwd --output o --vocab {}",
         "{}: no such vocabulary; make one with clozeline vocab"),
        ("serve --models {}", "{0}: no such directory (expected {0}/NAME/VERSION/saved_model.pb; "
         "clozeline export writes it)"),
    ],
)  # fmt: skip
def test_the_real_command_prints_one_line_without_a_traceback(
    arguments: str, message: str, tmp_path: Path, without_tensorflow: dict[str, str]
) -> None:
    """Before it imports TensorFlow, which takes seconds."""
    done = run(*arguments.format(tmp_path / "none").split(), environment=without_tensorflow)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"clozeline: {message.format(tmp_path / 'none')}\n"


@pytest.mark.parametrize("command", [[sys.executable, "-m", "clozeline"], ["clozeline"]])
def test_ctrl_c_during_imports_ends_with_one_line(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "tyro.py").write_text("raise KeyboardInterrupt")
    scripts = Path(sys.executable).parent
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "PATH": str(scripts)}
    done = subprocess.run([*command, "vocab"], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "clozeline: interrupted\n")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("evaluate --run {} --data d", "{}/config.json: cannot be read: "),
        ("inspect {}", "{}/manifest.json: cannot be read: "),
        ("pretrain --dataset {} --run r", "{}/manifest.json: cannot be read: "),
        (
            "vocab --input {} --output o",
            "--input {}: cannot be looked up: Too many levels of symbolic links",
        ),
        (
            "finetune --task single --train t --run r --init {}",
            "--init {}: cannot be read: Too many levels of symbolic links",
        ),
        ("import --from {} --run r", "{}: cannot be read: Too many levels of symbolic links"),
        ("serve --models {}", "{}: cannot be read: Too many levels of symbolic links"),
        ("preprocess --input /etc/passwd --output o --vocab {}", "{}: cannot be read: Too many"),
        ("finetune --task single --init . --run r --train {}", "--train {}: cannot be read: Too"),
        ("query --model m --passages {} text", "--passages {}: cannot be read: Too many"),
        ("pretrain --dataset d --run r --model {}.json", "--model {}.json: cannot be used: Too"),
        ("plan --text 1GB --devices 1xH100 --config {}", "--config {}: cannot be read: Too many"),
    ],
)
def test_a_loop_of_links_is_bad_input(
    arguments: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file system's fault would give exit code 1."""
    loop = tmp_path / "loop"
    for name in ("loop", "loop.json"):
        (tmp_path / name).symlink_to(name)
    assert main(arguments.format(loop).split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"clozeline: {named.format(loop)}")
    assert "Errno" not in line


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        ("evaluate --run {run} --data {none}", "--data"),
        ("export --run {run} --output o --check {none} --max-loss 1", "--check"),
        ("export --run {run} --output o --precision int8 --calibrate {none}", "--calibrate"),
        ("finetune --task pair --init {run} --run r --train {file} --dev {none}", "--dev"),
        ("finetune --task pair --init {run} --run r --train {file} --teacher {run} "
         "--unlabelled {none}", "--unlabelled"),
    ],
)  # fmt: skip
def test_a_missing_file_next_to_a_run(
    arguments: str, flag: str, tmp_path: Path, without_tensorflow: dict[str, str]
) -> None:
    """Before TensorFlow is imported, too."""
    facts = TextFacts("0" * 64, lower_case=True, max_seq_length=8)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(RunConfig(BertConfig(7), None, facts).to_json())
    (tmp_path / "file").touch()
    paths = {name: tmp_path / name for name in ("run", "file", "none")}
    done = run(*arguments.format(**paths).split(), environment=without_tensorflow)
    assert done.stderr == f"clozeline: {flag} {tmp_path / 'none'}: {NO_FILE}\n"
    assert done.returncode == 2


def test_imports_run_one_way() -> None:
    """In fresh processes: `pipeline` loads no Keras and no other room, `model` loads no Beam."""
    root = Path(clozeline.__file__).parents[1]
    script = (
        "import importlib, sys\n"
        "for module in sys.argv[2:]: importlib.import_module(module)\n"
        "wrong = [name for name in sys.modules if name.split('.')[0] in sys.argv[1].split(',')]\n"
        "assert not wrong, wrong\n"
    )
    for room, forbidden in (
        ("pipeline", "model,serving,keras,keras_hub"),
        ("model", "serving,apache_beam"),
    ):
        modules = [
            ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
            for path in sorted((root / room).rglob("*.py"))
        ]
        assert len(modules) > 5
        done = subprocess.run(
            [sys.executable, "-c", script, forbidden, *modules],
            capture_output=True, text=True, env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        )  # fmt: skip
        assert done.returncode == 0, f"{room}: {done.stderr[-500:]}"


def test_query_knows_the_kinds_of_tasks_without_tensorflow() -> None:
    script = (
        "import sys\nfrom model.tasks.task_kind import all_kinds\nimport clozeline.show.answer\n"
        "all_kinds()\nassert 'tensorflow' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_query_of_a_malformed_server(capsys: pytest.CaptureFixture[str]) -> None:
    for server in ("[::1", "http://127.0.0.1:8501"):
        error = error_of(capsys, "query", "--model", "m", "--server", server, "text")
        assert f"--server '{server}': expected HOST:PORT" in error


RUNNING = """
import sys, time
from clozeline import main, start

def run(*_):
    try:
        print("running", flush=True)
        time.sleep(600)
    finally:
        print("removed", flush=True)

main._run = run
sys.exit(start.main(["export"]))
"""


@contextlib.contextmanager
def running(*before: str) -> Iterator[subprocess.Popen[str]]:
    """A command that has begun to run; the words before it start it."""
    with subprocess.Popen(
        [*before, sys.executable, "-c", RUNNING],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout
        assert process.stdout.readline() == "running\n"
        yield process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_unwinds_a_command(number: signal.Signals, obeys_hang_up: None) -> None:
    """Exit codes 143 and 129, those of a shell for a command that these signals kill."""
    with running() as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == {"SIGTERM": 143, "SIGHUP": 129}[number.name]
    assert (out, err) == ("removed\n", f"clozeline: stopped by {number.name}\n")


def test_nohup_keeps_a_command_from_hanging_up() -> None:
    with running("nohup") as process:
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 143


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_first_process_of_a_container(number: int, obeys_hang_up: None) -> None:
    namespace = ["unshare", "--map-root-user", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*namespace, "true"], capture_output=True).returncode:
        pytest.skip("PID namespaces are not allowed here")
    with running(*namespace) as unshare:
        try:
            children = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children").read_text()
            os.kill(int(children), number)
            assert unshare.wait(60) == 128 + number
        finally:
            unshare.kill()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("demo --output s3://b/demo", "--output s3://b/demo"),
        ("serve --models m --cache s3://b/c", "--cache s3://b/c"),
        ("evaluate --run r --data d --cache gs://b/c", "--cache gs://b/c"),
    ],
)
def test_folders_that_must_be_local(
    arguments: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = error_of(capsys, *arguments.split())
    assert f"{named}: must be on this machine; give a local folder" in error


@pytest.mark.parametrize(
    "arguments",
    [
        "finetune --task single --train /etc/passwd --run r --init {}",
        "import --from {} --run r",
        "serve --models {}",
        "inspect {}",
        "evaluate --run {} --data d",
        "preprocess --input /etc/passwd --output o --vocab {}",
    ],
)
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("dangling", "is a link to nothing"),
        ("file/x", "cannot be read: Not a directory"),
        ("n" * 300, "File name too long"),
    ],
    ids=["dangling", "below a file", "long"],
)
def test_what_is_missing_is_said(
    arguments: str, name: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nothing")
    error = error_of(capsys, *arguments.format(tmp_path / name).split())
    assert f"{tmp_path / name}" in error
    assert reason in error


@pytest.mark.parametrize("field", ["train", "unlabelled"])
def test_a_pipe_is_no_file_to_learn_from(
    field: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is read twice: the second time, it would wait for another writer."""
    pipe = tmp_path / "pipe.tsv"
    os.mkfifo(pipe)
    files = {"train": "/etc/passwd", "unlabelled": "/etc/passwd"} | {field: str(pipe)}
    flags = [word for name, file in files.items() for word in (f"--{name}", file)]
    where = ["--init", str(tmp_path), "--run", str(tmp_path / "run")]
    error = error_of(
        capsys, "finetune", "--task", "single", *flags, "--teacher", str(tmp_path), *where
    )
    assert f"--{field} {pipe}: a pipe or a device, which cannot be read twice; give a" in error


@pytest.mark.parametrize(
    "arguments",
    ["plan --text 1GB --devices 1xH100 --config {}", "query --model m --passages {} text"],
)
def test_a_socket_is_bad_input(
    arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket has at most 107 bytes
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
    error = error_of(capsys, *arguments.format("socket").split())
    assert "socket: cannot be read: No such device or address" in error
