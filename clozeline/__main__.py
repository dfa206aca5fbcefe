"""`python -m clozeline`: the same as the `clozeline` command."""

import sys

from clozeline.main import main

sys.exit(main())
