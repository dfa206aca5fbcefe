"""Beam's own flags: passed through untouched, and unknown ones refused."""

import argparse
from collections.abc import Sequence

from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.errors import InputError


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
    runner = [] if known.runner else ["--runner=FnApiRunner"]
    return PipelineOptions([*runner, *flags])
