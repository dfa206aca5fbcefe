"""`python -m clozeline`, which is the `clozeline` command."""

import sys

from clozeline.main import main

sys.exit(main())
