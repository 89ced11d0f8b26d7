"""The hot loops: pure functions on arrays, one folder each, that know nothing of Tensor.

A folder holds `reference.py` (NumPy, the specification), `cpu.py` (Numba) and `cuda.py` with its `.cu` (CuPy),
all with the same signatures. The folder's own functions choose between the last two by the type of the array.
"""
