"""Run the command line as ``python -m dasksim``."""

import sys

from dasksim.cli import main

sys.exit(main())
