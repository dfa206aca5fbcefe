"""`python -m clozeline`: the same as the `clozeline` command."""

import sys

from clozeline.start import main

sys.exit(main())
