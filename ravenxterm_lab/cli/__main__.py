"""``python -m ravenxterm_lab.cli`` is ``raven-lab``."""

import sys

from ravenxterm_lab.cli import main

if __name__ == "__main__":
    sys.exit(main())
