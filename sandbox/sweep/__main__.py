"""The program of one batch: cells on standard input, results on standard output (`batch`)."""

import sys

from sandbox.sweep.batch import main

if __name__ == "__main__":
    sys.exit(main())
