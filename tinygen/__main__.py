"""`python -m tinygen` is the command `tinygen`."""

import sys

from tinygen.cli import main

sys.exit(main())
