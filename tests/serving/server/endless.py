"""Serve MODELS with a STOP_TIMEOUT in seconds; requests never end, nor do loads after `load`."""

import sys
import threading
from pathlib import Path

from clozeline.show.terminal import printed_notes
from serving.server.limits import Limits
from serving.server.main import serve
from serving.server.models import Repository
from serving.server.runner import Runner


def run(*_):
    print("running", file=sys.stderr, flush=True)
    threading.Event().wait()


Runner.run = run
if "load" in sys.argv[3:]:
    Repository.poll = run
limits = Limits(stop_timeout_secs=float(sys.argv[2]))
with printed_notes(str):
    serve(Path(sys.argv[1]), "127.0.0.1", 0, 0, limits=limits)
