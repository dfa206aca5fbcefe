"""Pass flags through to Beam, run its pipelines, and convert its failures to one-line errors."""

import argparse
import contextlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from apache_beam.utils import interactive_utils

from pipeline.cores import usable_cores
from pipeline.errors import InputError, JobError, did_you_mean
from pipeline.jobs.local_runner import LocalRunner, ending_with_its_workers

_log = logging.getLogger(__name__)

LOCAL_RUNNER = "FnApiRunner"

WORKER_FLAGS = {
    "direct_running_mode": (LOCAL_RUNNER,),
    "direct_num_workers": (LOCAL_RUNNER,),
    "parallelism": ("FlinkRunner", "PortableRunner"),
    "max_parallelism": ("FlinkRunner", "PortableRunner"),
    "sdk_worker_parallelism": ("FlinkRunner", "PortableRunner", "SparkRunner"),
    "num_workers": ("DataflowRunner",),
    "max_num_workers": ("DataflowRunner",),
}
"""Runners that read each flag about the number of workers; other runners ignore it silently."""

MAX_MESSAGE = 500  # characters; some runners put whole logs into an exception


def beam_options(flags: Sequence[str]) -> PipelineOptions:
    """Parse flags into Beam's options; the default runner is `FnApiRunner`.

    Beam's own default, `DirectRunner`, first tries to download another runner.

    Raises:
        InputError: a flag that Beam does not have, or a number of workers that the runner would
            ignore; Beam itself accepts both silently.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for options in (PipelineOptions, *PipelineOptions.__subclasses__()):
        options._add_argparse_args(parser)  # private, but how Beam itself builds its parser
    parser.set_defaults(**dict.fromkeys(WORKER_FLAGS))  # None = flag not set
    try:
        known, unknown = parser.parse_known_args(list(flags))
    except argparse.ArgumentError as error:
        raise InputError(f"{error} (a flag of Apache Beam)") from error
    if unknown:
        hint = did_you_mean(unknown[0].partition("=")[0], parser._option_string_actions)
        raise InputError(
            f"unknown flag {unknown[0]}: neither this command nor Apache Beam has it{hint}"
        )
    runner = [] if known.runner else [f"--runner={LOCAL_RUNNER}"]
    pipeline_options = PipelineOptions([*runner, *flags])
    _check_workers(_runner_name(pipeline_options), vars(known))
    if known.direct_num_workers == 0:  # for Beam, all cores of the machine
        pipeline_options.view_as(DirectOptions).direct_num_workers = usable_cores()
    return pipeline_options


def _runner_name(options: PipelineOptions) -> str:
    """Return the class name of the runner; like Beam, accept `flink` for `FlinkRunner`."""
    name = options.view_as(StandardOptions).runner.rpartition(".")[2]
    known = {name.lower(): name for name in StandardOptions.KNOWN_RUNNER_NAMES}
    return known.get(name.lower(), known.get(f"{name.lower()}runner", name))


def is_local(options: PipelineOptions) -> bool:
    """Return whether Beam's local runner executes the job."""
    return _runner_name(options) == LOCAL_RUNNER


def _check_workers(runner: str, flags: Mapping[str, Any]) -> None:
    """Check that a runner will start the requested workers.

    Args:
        runner: class name of the runner.
        flags: values of Beam's flags; None for flags of `WORKER_FLAGS` that are not set.

    Raises:
        InputError: the runner ignores a flag, or the flags contradict each other.
    """
    for flag, readers in WORKER_FLAGS.items():
        if flags[flag] is not None and runner not in readers:
            raise InputError(
                f"--{flag} {flags[flag]}: {runner} ignores it; it is for {' and '.join(readers)}, "
                "so leave it out or name another --runner"
            )
    mode, workers = flags["direct_running_mode"] or "in_memory", flags["direct_num_workers"]
    if workers is not None and workers < 0:
        raise InputError(f"--direct_num_workers {workers}: must be 1 or more, or 0 for all cores")
    if mode == "in_memory" and workers not in (None, 1):
        raise InputError(
            f"--direct_num_workers {workers}: ignored, since everything runs in one process; "
            "add --direct_running_mode=multi_processing"
        )
    if mode != "in_memory" and workers is None:
        raise InputError(
            f"--direct_running_mode {mode}: say how many workers with --direct_num_workers "
            "(0 for one on every core)"
        )


def describe_workers(options: PipelineOptions) -> str:
    """Return a description of the runner and the number and kind of its workers."""
    flags = options.get_all_options()
    runner = _runner_name(options)
    kinds = {"multi_processing": "worker processes", "multi_threading": "threads"}
    if runner == LOCAL_RUNNER:
        kind = kinds.get(flags["direct_running_mode"])
        count = flags["direct_num_workers"]
        return f"{runner}, {count} {kind}" if kind else f"{runner}, in this process"
    environment = flags["environment_type"]
    return f"{runner}, workers: {environment}" if environment else runner


def not_interactive() -> contextlib.AbstractContextManager[object]:
    """Keep Beam from its interactive mode, which it enters in IPython and which needs pandas."""
    return mock.patch.object(interactive_utils, "is_in_ipython", return_value=False)


@contextlib.contextmanager
def running_pipeline(options: PipelineOptions) -> Iterator[beam.Pipeline]:
    """Yield an empty pipeline; run it on exit, when the body has built it.

    Raises:
        InputError: Beam has no such runner, or a worker raised an `InputError`.
        JobError: the job failed.
    """
    try:
        pipeline = beam.Pipeline(LocalRunner() if is_local(options) else None, options)
    except ValueError as error:  # a runner that Beam does not have
        raise InputError(" ".join(str(error).split())[:MAX_MESSAGE]) from error
    # For transforms of other languages. Beam removes it after the job, and leaves it in the
    # system's temporary directory if the process is killed or the pipeline never runs.
    Path(pipeline.local_tempdir).rmdir()
    with not_interactive():
        yield pipeline
    _log.info("runner: %s", describe_workers(options))
    try:
        with ending_with_its_workers():
            pipeline.run().wait_until_finish()
    except (InputError, JobError) as error:
        raise type(error)(_without_step(str(error))) from error
    except Exception as error:
        if "KeyboardInterrupt" in str(error):  # Ctrl-C reached a worker, and Beam wrapped it
            raise KeyboardInterrupt from error
        raise _failure(_reason(str(error))) from error


_RAISED_BY_US = re.compile(rf"{JobError.__module__}\.(\w+): ")


_OF_THE_SYSTEM = re.compile(r"\w+: \[Errno \d+\] ([^:]+): '(.+)'(?: \[while running.*)?")


def _failure(reason: str) -> Exception:
    """Return the exception for a failed job: `InputError` if a worker raised one of those."""
    # Only the text of a worker's exception reaches this process, so its type is read from there.
    raised = _RAISED_BY_US.match(reason)
    if raised and raised[1] != JobError.__name__:
        return InputError(_without_step(reason[raised.end() :]))
    message = _without_step(reason[raised.end() :]) if raised else reason
    if of_a_file := _OF_THE_SYSTEM.fullmatch(message):
        message = f"{of_a_file[2]}: {of_a_file[1]}"
    return JobError(f"the Beam job failed: {message}"[:MAX_MESSAGE])


def _without_step(message: str) -> str:
    """Return a message without the name of the pipeline step that Beam appends."""
    return message.partition(" [while running")[0]


def _reason(message: str) -> str:
    """Return the cause on one line: the last line of the last traceback, if there is one."""
    raised = re.findall(r"Traceback \(most recent call last\):\n(?:[ \t].*\n|\n)*(\S.*)", message)
    reason = raised[-1] if raised else message
    return " ".join(reason.split())
