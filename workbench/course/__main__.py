"""`python -m workbench.course build`: the same as `workbench course build`."""

import sys

from workbench.cli import main

sys.exit(main(["course", *sys.argv[1:]]))
