"""The command line: `clozeline COMMAND` finds the command, parses its flags and runs it.

Only `clozeline/` contains code for flags, YAML, colours, tables and exit codes:

- `start.py` is the entry point: it ends an interrupted command, also during imports.
- `main.py` finds the command, runs it and returns the exit code.
- `options.py` parses flags and YAML into a command's options.
- `commands/` has the table of commands, and one file per command, imported when it runs: its
  options, their conversion to the engine's frozen configuration, the text printed for the engine's
  typed result, and the dictionary that `--json` prints.
- `show/` has tables, bars and pictures.

The engine (`pipeline` ← `model` ← `serving`) imports nothing from here and has no flags:

- **Errors.** The engine's messages name configuration fields in backquotes, for Python callers:
  "`batch_size` 7: must be ...". Before a message is printed, `spelled` replaces fields by flags: of
  the running command, or else of other commands (`eval_rate` in a message of `pretrain` is a flag
  of `preprocess`). Configuration fields therefore have the names of the options. Checks in the
  options name fields in the same way.
- **Notes and warnings.** The engine logs them (`logging.getLogger(__name__).info(...)`), also with
  fields in backquotes; `printed_notes` prints them on standard error while a command runs.
- **Progress bars.** The engine draws them with `pipeline.progress`, on standard error.
- **Results.** The engine's functions return frozen dataclasses and print nothing. Texts in results
  that name fields (warnings) are passed through `spelled` before they are printed, also as JSON.
- **Exit codes.** 0 = success; 1 = failure (`JobError`, `OSError`: disk full, server failure); 2 =
  invalid input (`InputError`); 130 = interrupted, 143 = SIGTERM, 129 = SIGHUP, which `start.py`
  returns.
"""

import io
import logging
import os
import sys

from clozeline.commands import COMMANDS, options_of, spelled
from clozeline.options import BeamCommand, Command, parse_options
from pipeline.errors import InputError, JobError, did_you_mean, escaped, is_bad_path
from pipeline.standard_streams import StandardOutput, Unfailing
from pipeline.stop_signals import unwinding


def usage() -> str:
    """Return the text of `clozeline --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {entry.summary}" for name, entry in COMMANDS.items()]
    return "\n".join(
        [
            "usage: clozeline COMMAND [flags]",
            "",
            "From raw text to a served BERT:",
            *lines,
            "",
            "`clozeline COMMAND --help` lists a command's flags.",
            "Every command takes --config FILE.yaml (flags by name) and --json.",
        ]
    )


def parse(name: str, arguments: list[str]) -> tuple[Command, list[str]]:
    """Return the options of a command, and unknown flags.

    Raises:
        InputError: a flag is missing, malformed, out of range, or has no effect with the others.
    """
    return parse_options(options_of(name), f"clozeline {name}", arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return the exit code, see the module's docstring."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Texts have characters that the terminal's encoding lacks: in the C locale, all but ASCII.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if not arguments or arguments[0] in ("-h", "--help", "help"):
            # A closed pipe is noticed here, not when Python exits.
            print(usage(), file=StandardOutput(sys.stdout), flush=True)
            return 0 if arguments else 2
        with unwinding():
            return _run(arguments[0], arguments[1:])
    except InputError as error:
        _complain(error, arguments[0])
        return 2
    except BrokenPipeError:  # the reader of standard output has closed it, as `head` does
        sys.stderr.close()  # the interpreter would report the same error again when it exits
        return 1
    except JobError as error:
        _complain(error, arguments[0])
        return 1
    except MemoryError as error:
        why = f": {error}" if str(error) else ""
        _complain(JobError(f"out of memory{why}"), arguments[0])
        return 1
    except OSError as error:  # disk full, no permission
        return _os_error(error, arguments[0])


def _os_error(error: OSError, name: str) -> int:
    """Print an error of the operating system, and return the exit code: 2 if the path is bad."""
    Unfailing(sys.stdout).flush()  # else Python tries again when it exits, and its code is 120
    has_path = error.filename is not None and error.strerror
    _complain(JobError(f"{error.filename}: {error.strerror}") if has_path else error, name)
    return 2 if is_bad_path(error) else 1


def _complain(error: Exception, name: str) -> None:
    print(f"clozeline: {escaped(spelled(str(error), name))}", file=Unfailing(sys.stderr))


def _run(name: str, arguments: list[str]) -> int:
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS)
        raise InputError(f"unknown command {name!r}{hint} (see clozeline --help)")
    options, unknown = parse(name, arguments)
    from clozeline.show.terminal import keep_stdout_for_json, printed_notes
    from pipeline.cores import limited_threads
    from pipeline.quiet_imports import import_quietly
    from pipeline.storage.outputs import check_outputs
    from pipeline.storage.remote import is_remote

    keep_stdout_for_json(options.json)
    # TensorFlow and Keras read these variables when they are imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # These two may be set for other programs; ours works with Keras 3 on TensorFlow only.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.pop("TF_USE_LEGACY_KERAS", None)
    os.environ.update(options.environment)
    if COMMANDS[name].imports:
        for variable, value in limited_threads().items():
            os.environ.setdefault(variable, value)
    logging.getLogger().setLevel(logging.ERROR)
    # Beam logs a worker's exception and raises it again; the user should see it once.
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    with printed_notes(lambda message: spelled(message, name)):
        check_outputs(output for output in options.outputs if not is_remote(output.path))
        options.before_tensorflow()
        import_quietly(*COMMANDS[name].imports)
        result = options.run(unknown) if isinstance(options, BeamCommand) else options.run()
    if options.json:
        from pipeline.storage.strict_json import to_json

        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # JSON is UTF-8 in every locale
        print(to_json(result), file=StandardOutput(sys.stdout), flush=True)
    return 0 if result.get("ok", True) else 1
