"""Run the command line with `python -m antiphase`."""

import sys

from antiphase.cli import main

sys.exit(main())
