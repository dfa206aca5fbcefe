"""`clozeline demo`: run every step through the real commands, and report the results."""

import contextlib
import json
import math
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clozeline.commands.demo_folder import (
    ARTEFACTS,
    CREATED,
    MODEL,
    mark,
    prepare_folder,
    record_files,
)
from clozeline.commands.demo_questions import DemoQuestions, held_out_questions
from clozeline.options import Command, InputGlobs
from clozeline.show.terminal import command, notes, print_line, results, table
from model import served
from pipeline.child_processes import ending_with_parent, module_command
from pipeline.errors import InputError, JobError, check_range
from pipeline.progress import counted
from pipeline.stop_signals import Stopped
from pipeline.storage.files import hidden_prefix, publish, write_atomically
from pipeline.storage.locks import only_writer_of_outputs, staging
from pipeline.storage.outputs import Output, outputs_of
from pipeline.storage.remote import check_local, is_url

MAX_SEQ_LENGTH, MAX_PREDICTIONS = 64, 10
DUPLICATES, EVAL_RATE, SEED = 6, 0.05, 1
BATCH_SIZE, LEARNING_RATE, WARMUP_STEPS = 32, 3e-3, 100
RECIPE = "cpu-hours"

FEWEST_STEPS, MOST_STEPS = 2000, 6000
"""Training steps if a number is not given. With fewer, the model has hardly begun to learn; with
more, it sees a corpus of 5 MB more than ten times."""

SERVING_SECS = 40.0
"""Time that is left for export and serving."""

ARCHITECTURE = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "max_position_embeddings": MAX_SEQ_LENGTH,
}
"""BERT-tiny with twice the attention heads: three attend to neighbours from the start, and one to
equal pieces of both segments (`model.bert.initialization`)."""

SHOWN_QUESTIONS = 2
"""How many of the held-out passages that the served model completes are shown."""

CLEARLY_NATS = 0.25
"""Minimum difference between the unigram entropy and the loss, to count as learned."""

STANDARD_ERRORS = 3
"""Minimum difference between the accuracy and the majority class, in standard errors."""

READY_SECS = 120.0


@dataclass(frozen=True, kw_only=True)
class Demo(Command):
    """Run the whole pipeline: text, vocabulary, dataset, a trained BERT, a running model server.

    The default corpus is the docstrings of the Python packages on this machine.
    """

    corpus: InputGlobs = ()
    """Text files to use instead of the docstrings, one document per file."""
    output: Path = Path("demo")
    """Folder for everything the demo creates; files of an earlier demo in it are replaced."""
    megabytes: float = 5.0
    """Size of the docstring corpus to collect, in MB."""
    vocab_size: int = 8000
    """Vocabulary size."""
    steps: int | None = None
    """Training steps. Default: as many as this machine does within --minutes, from 2,000 to
    6,000."""
    minutes: float = 6.0
    """Time for the whole demo, which determines --steps; a slow machine takes longer."""
    check_learning: bool = True
    """Exit with an error if the model did not learn; disable this for runs of a few steps."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: a flag is out of range.
        """
        if self.corpus:
            self.refuse_given("`corpus` brings its own text; leave one of the two out", "megabytes")
        check_range("megabytes", self.megabytes, 0.1, 1000)
        check_range("vocab_size", self.vocab_size, 100, 1_000_000)
        check_range("minutes", self.minutes, 0, 10_000)
        if self.steps is not None:
            self.refuse_given(
                "`steps` says how long it trains; leave one of the two out", "minutes"
            )
            check_range("steps", self.steps, 1, 10**9)

    @property
    def outputs(self) -> list[Output]:
        """Files and folders that the command writes."""
        return outputs_of("folder", output=self.output)

    def before_tensorflow(self) -> None:
        """Look for the corpus before an earlier demo is replaced.

        Raises:
            InputError: the folder is remote, no file matches a glob, or one is in the folder whose
                files are replaced.
        """
        check_local(self.output, "output")
        from pipeline.storage.files import match_files

        for path in match_files([glob for glob in self.corpus if not is_url(glob)], "corpus"):
            if Path(path).resolve().is_relative_to(self.output.resolve()):
                raise InputError(
                    f"`corpus` {path}: is in {self.output}, whose files the demo replaces; "
                    "move it, or choose another `output`"
                )

    def run(self) -> dict[str, Any]:
        """Run every stage through its command, then query the server."""
        return run_demo(self)


@dataclass
class DemoStages:
    """The stages that have been run.

    Attributes:
        folder: output folder of the demo.
        rows: one row per stage, with the columns `STAGE_KEYS`.
    """

    folder: Path
    rows: list[tuple[str, str, str, float, str]] = field(default_factory=list)

    def command(self, *arguments: object) -> tuple[dict[str, Any], float]:
        """Run a command in a new process; return its JSON result and the duration in seconds.

        Raises:
            InputError: the command refused its input, and has printed the reason.
            JobError: the command failed, and has printed the reason.
        """
        words = [str(argument) for argument in arguments]
        print_command("clozeline", *words)
        begin = time.monotonic()
        process = subprocess.Popen(
            # Standard error goes to the terminal: bars and notes of the command are seen as they
            # come.
            [*module_command("clozeline"), *words, "--json"],
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C in a terminal must reach it only once; `kill` reaches the demo alone.
            start_new_session=True,
            # A demo that is killed would leave a training of minutes behind.
            preexec_fn=ending_with_parent(signal.SIGTERM),
        )
        try:
            printed, _ = process.communicate()
        except KeyboardInterrupt as interrupt:
            # The command may save a checkpoint. Until it has ended, a second Ctrl-C kills it.
            number = interrupt.number if isinstance(interrupt, Stopped) else signal.SIGINT
            try:
                process.send_signal(number)
                process.wait()
            finally:
                process.kill()
            raise
        if process.returncode:
            raise _failed(words[0], process.returncode)
        return json.loads(printed), time.monotonic() - begin

    def add(self, stage: str, made: str, rate: str, seconds: float, where: Path | str) -> None:
        """Add a row to the final table."""
        self.rows.append((stage, made, rate, seconds, str(where)))


def _failed(name: str, code: int) -> InputError | JobError:
    """Return the error about a command that has printed the reason."""
    # The demo ends with the exit code of the stage that failed.
    kind = InputError if code == 2 else JobError
    return kind(f"clozeline {name} ended with exit code {code}, see above")


def print_command(*words: str, background: bool = False) -> None:
    """Print a command that is about to run, as a shell takes it."""
    line = command(*words) + " &" * background
    notes.print(f"\n$ {line}", style="bold", soft_wrap=True)


def run_demo(options: Demo) -> dict[str, Any]:
    """Run every stage, query the server, and print the results.

    Raises:
        InputError: the folder was not created by a demo, another one runs in it, or a stage refused
            its input.
        JobError: a stage failed.
    """
    with only_writer_of_outputs(options.outputs):
        stages = DemoStages(prepare_folder(options.output))
        try:
            return _run_stages(options, stages)
        finally:
            # Also of a demo that failed: files that are added later are not a demo's.
            record_files(stages.folder)


def _run_stages(options: Demo, stages: DemoStages) -> dict[str, Any]:
    begin = time.monotonic()
    globs = make_corpus(options, stages)
    preprocessed, checked = make_records(options, globs, stages)
    # Before the training, which takes minutes: a corpus may be too small for these.
    questions = held_out_questions(stages.folder / "vocab.txt", globs, preprocessed["settings"])
    trained = train(options, stages, begin)
    export(stages)
    answers = ask_server(stages, questions)
    verdict = judge(trained, checked) | count_words(answers)
    seconds = time.monotonic() - begin
    show(stages, answers, verdict, seconds)
    learned = verdict["masked_lm_learned"] and verdict["next_sentence_learned"]
    return verdict | {
        "ok": learned or not options.check_learning,
        "seconds": seconds,
        "stages": [dict(zip(STAGE_KEYS, row, strict=True)) for row in stages.rows],
    }


STAGE_KEYS = ("stage", "made", "rate", "seconds", "where")


def make_corpus(options: Demo, stages: DemoStages) -> tuple[str, ...]:
    """Return the globs of the corpus; if none is given, collect one."""
    if options.corpus:
        return options.corpus
    from pipeline.corpus.docstrings import write_corpus

    notes.print("Collecting the docstrings of the Python packages on this machine", style="bold")
    begin = time.monotonic()
    corpus = stages.folder / "corpus"
    with staging(stages.folder, hidden_prefix(corpus)) as staged:
        found = write_corpus(staged, round(options.megabytes * 1e6))
        # A file of the user there may have any name, so these are marked one by one.
        names = sorted(path.name for path in staged.iterdir())
        mark(stages.folder, (*CREATED, *(f"{corpus.name}/{name}" for name in names)))
        publish(staged, corpus)
    seconds = time.monotonic() - begin
    made = f"{counted(found['documents'], 'documents')} of {counted(found['packages'], 'packages')}"
    stages.add("corpus", made, f"{found['bytes'] / 1e3 / seconds:,.0f} kB/s", seconds, corpus)
    return (str(corpus / "*.txt"),)


def make_records(
    options: Demo, globs: tuple[str, ...], stages: DemoStages
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Make the vocabulary and the dataset; return the results of `preprocess` and `inspect`."""
    vocab, dataset = stages.folder / "vocab.txt", stages.folder / "dataset"
    learned, seconds = stages.command(
        "vocab", "--input", *globs, "--output", vocab, "--size", options.vocab_size
    )
    made = counted(learned["pieces"], "pieces")
    stages.add("vocab", made, f"{learned['words'] / seconds:,.0f} words/s", seconds, vocab)
    preprocessed, seconds = stages.command(
        "preprocess", "--input", *globs, "--vocab", vocab, "--output", dataset,
        "--max-seq-length", MAX_SEQ_LENGTH, "--max-predictions", MAX_PREDICTIONS,
        "--duplicates", DUPLICATES, "--eval-rate", EVAL_RATE, "--seed", SEED,
        # Beam's default tries Prism first, which downloads a binary.
        "--runner=FnApiRunner",
    )  # fmt: skip
    # Now, and not after minutes of training that nothing could measure.
    if not preprocessed["splits"].get("eval"):
        raise InputError(
            "the corpus is too small: no document was held out to measure what the model "
            f"learns (about one of {round(1 / EVAL_RATE)} is); give more documents, 100 or more"
        )
    tokens = sum(split["real_positions"] for split in preprocessed["statistics"].values())
    made = f"{sum(preprocessed['splits'].values()):,} examples"
    stages.add("preprocess", made, f"{tokens / seconds:,.0f} tokens/s", seconds, dataset)
    checked, seconds = stages.command("inspect", dataset, "--examples", 1)
    stages.add("inspect", made, "", seconds, dataset)
    return preprocessed, checked


def train(options: Demo, stages: DemoStages, begin: float) -> dict[str, Any]:
    """Pretrain on the dataset; return the result of `pretrain`, and `gain_of_doubling`.

    Without a number of steps it trains the warm-up first, which is the same for any number, and
    measures how many steps the machine does in the time that is left.

    Args:
        options: the flags.
        stages: the stages so far.
        begin: when the demo began, in seconds of the monotonic clock.
    """
    flags = training_flags(options, stages)
    started = time.monotonic()
    steps = options.steps
    if steps is None:
        warmed_up, seconds = stages.command(*flags, "--steps", WARMUP_STEPS)
        step_secs = BATCH_SIZE * MAX_SEQ_LENGTH / warmed_up["tokens_per_sec"]
        # The rest of the command, its start and its evaluation, takes as long again.
        starting_secs = seconds - WARMUP_STEPS * step_secs
        spent = time.monotonic() - begin + starting_secs + SERVING_SECS
        steps = steps_within(60 * options.minutes - spent, step_secs)
        notes.print(
            f"\nThis machine does {1 / step_secs:.0f} steps per second, so the demo trains "
            f"{steps:,} steps: {FEWEST_STEPS:,} to {MOST_STEPS:,}, as many as end within "
            f"{options.minutes:g} minutes."
        )
    # After a quarter, a half and all steps: two doublings show how much the next one would gain.
    quarter = max(1, steps // 4)
    trained, _ = stages.command(*flags, "--steps", steps, "--eval-every-steps", quarter)
    made = f"{counted(steps, 'steps')} of {BATCH_SIZE} examples"
    rate = f"{trained['tokens_per_sec']:,.0f} tokens/s"
    stages.add("pretrain", made, rate, time.monotonic() - started, stages.folder / "run")
    lines = (stages.folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    evaluated = [each for each in map(json.loads, lines) if each["split"] == "eval"]
    losses = {each["step"]: each["masked_lm_loss"] for each in evaluated}
    at = [losses.get(step, math.nan) for step in (quarter, 2 * quarter, steps)]
    return trained | {"steps": steps, "gain_of_doubling": gain_of_doubling(*at)}


def training_flags(options: Demo, stages: DemoStages) -> list[object]:
    """Write the model's config; return the words of the command `pretrain` without `--steps`."""
    from pipeline.storage.strict_json import to_json
    from pipeline.text.tokenizer import Vocabulary

    model = stages.folder / "model.json"
    vocab_size = len(Vocabulary.read(stages.folder / "vocab.txt"))
    config = {"vocab_size": vocab_size, **ARCHITECTURE}
    write_atomically(model, to_json(config, indent=1).encode())
    # The warm-up is trained before the number of steps is known. A short run warms up over half of
    # its steps.
    warmup_steps = min(WARMUP_STEPS, (options.steps or FEWEST_STEPS) // 2)
    return [
        "pretrain", "--dataset", stages.folder / "dataset", "--run", stages.folder / "run",
        "--model", model, "--recipe", RECIPE, "--batch-size", BATCH_SIZE,
        "--learning-rate", LEARNING_RATE, "--warmup-steps", warmup_steps, "--seed", SEED,
    ]  # fmt: skip


def steps_within(seconds: float, step_secs: float) -> int:
    """Return a number of training steps: the warm-up and hundreds more, within the bounds.

    Args:
        seconds: time for the steps after the warm-up.
        step_secs: time of a step.
    """
    more = int(seconds / step_secs) // 100 * 100
    return min(max(WARMUP_STEPS + more, FEWEST_STEPS), MOST_STEPS)


def gain_of_doubling(quarter: float, half: float, whole: float) -> float | None:
    """Return by how much twice as many steps would lower the held-out loss, in nats.

    Each doubling of the steps gains less than the one before: here, the next one by the same factor
    as the last one.

    Args:
        quarter: loss after a quarter of the steps.
        half: loss after half of them.
        whole: loss after the last one.

    Returns:
        The gain; None if the curve does not tell, because the loss did not fall in both parts.
    """
    first, second = quarter - half, half - whole
    if not (first > 0 and second > 0):
        return None
    return second * min(1.0, second / first)


def export(stages: DemoStages) -> None:
    """Export the run for a model server."""
    exported, seconds = stages.command(
        "export", "--run", stages.folder / "run", "--output", stages.folder / "models" / MODEL
    )
    made = f"version {exported['version']}, {exported['size_bytes'] / 1e6:.1f} MB"
    stages.add("export", made, "", seconds, exported["model"])


def ask_server(stages: DemoStages, questions: DemoQuestions) -> dict[str, Any]:
    """Start a server; send it held-out text, masked words in turns over REST and gRPC."""
    from serving.client.answers import ask

    begin = time.monotonic()
    with running_server(stages.folder / "models") as (rest, grpc):
        started = time.monotonic() - begin
        addresses = [("REST", rest), ("gRPC", grpc)]
        filled = []
        for index, question in enumerate(questions.masked):
            transport, address = addresses[index % 2]
            # In turns, so that both APIs are shown to work.
            answer = ask(address, MODEL, [question.text], over_grpc=transport == "gRPC")
            filled.append((transport, question, answer))
        pairs = [
            (kind, pair, ask(rest, MODEL, pair, over_grpc=False))
            for kind, pair in (("true", questions.true_pair), ("random", questions.random_pair))
        ]
    seconds = time.monotonic() - begin
    made = f"{len(filled) + len(pairs)} answers"
    stages.add("serve", made, f"ready in {started:.1f} s", seconds, stages.folder / "models")
    return {"filled": filled, "pairs": pairs}


@contextlib.contextmanager
def running_server(models: Path) -> Iterator[tuple[str, str]]:
    """Run `clozeline serve` on free ports; yield the REST and the gRPC address.

    Raises:
        InputError, JobError: the server ended, and has printed the reason.
        ServerError: it is not ready within `READY_SECS`, or failed.
    """
    from serving.client import Client, ServerError

    # Not port 0: the address stands in the printed command, before the server has chosen one.
    rest_port, grpc_port = free_port(), free_port()
    ports = ["--rest-port", str(rest_port), "--grpc-port", str(grpc_port)]
    words = ["serve", "--models", str(models), *ports]
    print_command("clozeline", *words, background=True)
    server = subprocess.Popen(
        [*module_command("clozeline"), *words], preexec_fn=ending_with_parent(signal.SIGTERM)
    )
    client = Client(f"http://127.0.0.1:{rest_port}")
    try:
        client.wait_until_ready(MODEL, READY_SECS, is_running=lambda: server.poll() is None)
        yield f"127.0.0.1:{rest_port}", f"127.0.0.1:{grpc_port}"
    except ServerError as error:
        if server.poll() is None:
            raise
        raise _failed("serve", server.returncode) from error
    finally:
        server.terminate()
        server.wait()


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def judge(trained: dict[str, Any], checked: dict[str, Any]) -> dict[str, Any]:
    """Return whether the model learned, judged by its metrics on held-out text."""
    held_out = checked["statistics"]["eval"]
    examples = held_out["examples"]
    random_rate = held_out["random_next"] / examples
    # Accuracy of the best constant answer.
    chance = max(random_rate, 1 - random_rate)
    # Standard error of a share: √(p (1 - p) / n).
    margin = STANDARD_ERRORS * (chance * (1 - chance) / examples) ** 0.5
    loss, accuracy = trained["masked_lm_loss"], trained["next_sentence_accuracy"]
    return {
        "masked_lm_loss": loss,
        "masked_lm_accuracy": trained["masked_lm_accuracy"],
        "unigram_entropy_nats": checked["unigram_entropy_nats"],
        "gain_of_doubling": trained["gain_of_doubling"],
        "steps": trained["steps"],
        "masked_lm_learned": loss < checked["unigram_entropy_nats"] - CLEARLY_NATS,
        "next_sentence_accuracy": accuracy,
        "next_sentence_chance": chance,
        "next_sentence_margin": margin,
        "next_sentence_learned": accuracy > chance + margin,
        "eval_examples": examples,
    }


def count_words(answers: dict[str, Any]) -> dict[str, int]:
    """Return in how many sentences the author's word is among the answers for its mask."""
    found = [
        # The model is uncased, and the author's word is as it was written.
        question.word.lower() in answer.outputs[served.TOKENS][0]
        for _, question, answer in answers["filled"]
    ]
    return {"words_found": sum(found), "words_asked": len(found)}


def show(
    stages: DemoStages, answers: dict[str, Any], verdict: dict[str, Any], seconds: float
) -> None:
    """Print the answers, the verdict, the stages and further commands."""
    from clozeline.show.answer import show as show_answer

    results.rule("answers of the served model on held-out text")
    for transport, question, answer in answers["filled"][:SHOWN_QUESTIONS]:
        results.print(show_answer([question.text], answer))
        results.print(f"the author wrote: {question.word}   (over {transport})\n")
    results.print(
        f"The author's word is among the answers in {verdict['words_found']} of "
        f"{verdict['words_asked']} held-out passages.\n"
    )
    for kind, (first, second), answer in answers["pairs"]:
        probability = answer.outputs[served.IS_NEXT_PROBABILITY]
        results.print(f"{probability:.3f}  a {kind} next sentence   (over REST)")
        results.print(f"       {first}\n       {second}\n")
    results.print(verdict_lines(verdict))
    # Without `where`: paths would be broken at 80 columns.
    rows = [(*row[:3], f"{row[3]:.1f}") for row in stages.rows]
    results.print(table("Stages", STAGE_KEYS[:-1], rows, frozenset({0, 1})))
    made = ", ".join(name for name in ARTEFACTS if (stages.folder / name).exists())
    print_line(f"In {stages.folder}: {made}")
    results.print(f"{seconds / 60:.1f} minutes in total.\n\nNext steps:")
    # A small corpus may have no held-out passage with a word to mask.
    texts = [question.text for _, question, _ in answers["filled"]] or ["The [MASK] is open."]
    for next_step in next_steps(stages.folder, texts[0]):
        results.print(f"  {next_step}")


def next_steps(folder: Path, text: str) -> list[str]:
    """Return command lines to copy: serve the model, query it with a text, look at the files."""
    return [
        command("clozeline", "serve", "--models", folder / "models"),
        command("clozeline", "query", "--model", MODEL, text),
        command("clozeline", "inspect", folder / "dataset", "--examples", 10),
        command("tensorboard", "--logdir", folder / "run"),
    ]


def verdict_lines(verdict: dict[str, Any]) -> str:
    """Return the verdict as text."""
    loss, entropy = verdict["masked_lm_loss"], verdict["unigram_entropy_nats"]
    masked = (
        f"Masked words, held out: loss {loss:.3f} nats, unigram entropy {entropy:.3f}: "
        f"{'learned' if verdict['masked_lm_learned'] else 'NOT LEARNED'} "
        f"(accuracy {verdict['masked_lm_accuracy']:.1%})."
    )
    following = (
        f"Next sentences, held out: accuracy {verdict['next_sentence_accuracy']:.1%} of "
        f"{verdict['eval_examples']:,}, chance {verdict['next_sentence_chance']:.1%} "
        f"± {verdict['next_sentence_margin']:.1%}: "
        f"{'learned' if verdict['next_sentence_learned'] else 'NOT LEARNED'}."
    )
    gain, twice = verdict["gain_of_doubling"], 2 * verdict["steps"]
    longer = (
        "This run's curve does not tell how a longer one would do: the loss did not always fall."
        if gain is None
        else f"By this run's curve, {twice:,} steps would reach about {loss - gain:.2f} nats."
    )
    return f"{masked}\n{following}\n{longer}\n"
