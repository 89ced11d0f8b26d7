"""NumPy, loaded so that the idle threads of OpenBLAS, its matrix product, soon go to sleep.

By default they look for work for a tenth of a second after every product, on the cores that the next kernel wants: a DCGAN's
training step takes 1.8 times as long. To sleep at once is no better: an LSTM, with a small product at every step of time, then
takes 1.7 times as long. OpenBLAS reads how long when it is loaded, and only then. So this is for programs that import tinygen
first, as its command does; others can set the variable themselves.
"""

import os
import sys

VARIABLE, SOON = "OPENBLAS_THREAD_TIMEOUT", "20"  # 2^20 clock cycles: a third of a millisecond

if "numpy" not in sys.modules and VARIABLE not in os.environ:
    os.environ[VARIABLE] = SOON
    try:
        import numpy  # noqa: F401
    finally:
        del os.environ[VARIABLE]
