"""`python -m dfsfuse` is the command `dfs`."""

import sys

from dfsfuse.cli import main

sys.exit(main())
