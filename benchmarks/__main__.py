"""`python -m benchmarks`: fix the number of threads of every library, which read it when they load, then start."""

import os
import sys

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def _threads(arguments: list[str]) -> str:
    for i, argument in enumerate(arguments):
        if argument.startswith("--threads"):
            return argument.partition("=")[2] or "".join(arguments[i + 1 : i + 2])
    return str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())


if __name__ == "__main__":
    os.environ.update(dict.fromkeys(THREADS, _threads(sys.argv[1:])))
    from tinygen.blas import SOON, VARIABLE  # loads NumPy, as a program of tinygen does

    os.environ.setdefault(VARIABLE, SOON)  # for the processes of the sides, which do not start with this file
    from benchmarks.cli import main

    sys.exit(main())
