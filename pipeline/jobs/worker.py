"""A local worker process: Beam's SDK worker, silent unless something fails.

`pipeline.jobs.local_runner` runs it as `python -P -m pipeline.jobs.worker PARENT`, with its own
process id, and with Beam's settings in environment variables. By default Beam's worker logs about
twenty lines to standard error, and TensorFlow more.
"""

import signal
import sys


def main() -> None:
    """Process the runner's bundles until it has no more work."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a traceback
    from pipeline.child_processes import end_with_parent

    end_with_parent(int(sys.argv.pop()))
    import logging

    from pipeline.quiet_imports import import_quietly

    errors = logging.StreamHandler()
    errors.setLevel(logging.ERROR)
    logging.basicConfig(handlers=[errors])
    # Do not log a failure here: the submitting process raises it with the same message.
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    import_quietly("tensorflow", "tensorflow_text")
    from apache_beam.runners.worker import sdk_worker, sdk_worker_main

    sdk_worker.print = _print_nothing  # it would print the traceback of a failure
    sdk_worker_main.main(sys.argv)


def _print_nothing(*_: object, **__: object) -> None:
    """Stand in for `print`."""


if __name__ == "__main__":
    main()
