"""Beam's edge: its flags pass through untouched, and its failures become one line."""

import argparse
import contextlib
from collections.abc import Iterator, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from pipeline.errors import InputError, JobError

LOCAL_RUNNER = "FnApiRunner"

MAX_MESSAGE = 500  # characters; some runners put whole logs into an exception


def beam_options(flags: Sequence[str]) -> PipelineOptions:
    """Return Beam's options for some flags; the runner is `FnApiRunner` unless they name one.

    Beam's default, `DirectRunner`, tries a runner that it has to download first, so local work
    names the in-process one.

    Raises:
        InputError: a flag that Beam does not have; Beam itself would ignore it.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for options in (PipelineOptions, *PipelineOptions.__subclasses__()):
        options._add_argparse_args(parser)  # how Beam's own parser is put together
    try:
        known, unknown = parser.parse_known_args(list(flags))
    except argparse.ArgumentError as error:
        raise InputError(f"{error} (a flag of Apache Beam)") from error
    if unknown:
        raise InputError(f"unknown flag {unknown[0]}: neither this command nor Apache Beam has it")
    runner = [] if known.runner else [f"--runner={LOCAL_RUNNER}"]
    return PipelineOptions([*runner, *flags])


def is_local(options: PipelineOptions) -> bool:
    """Return whether Beam's local runner is asked for."""
    return options.view_as(StandardOptions).runner == LOCAL_RUNNER


@contextlib.contextmanager
def running_pipeline(options: PipelineOptions) -> Iterator[beam.Pipeline]:
    """Yield a pipeline, and run it when the body has put it together.

    Raises:
        InputError: there is no such runner.
        JobError: it failed.
    """
    try:
        pipeline = beam.Pipeline(options=options)
    except ValueError as error:  # a runner that Beam does not have
        raise InputError(" ".join(str(error).split())[:MAX_MESSAGE]) from error
    yield pipeline
    try:
        pipeline.run().wait_until_finish()
    except Exception as error:
        if "KeyboardInterrupt" in str(error):  # wrapped by the worker it reached
            raise KeyboardInterrupt from error
        reason = " ".join(str(error).split())
        raise JobError(f"the Beam job failed: {reason}"[:MAX_MESSAGE]) from error
