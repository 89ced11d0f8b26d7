"""The benchmarks: `python -m benchmarks [NAME...]`, from the root of a checkout, with the extra `bench` installed.

registry.py   what a benchmark is: cases, their sides, and the work that sets the floor
agreement.py  the check, before anything is timed, that all sides compute the same numbers
worker.py     each side in a process of its own, on the CPU
attempts.py   PyTorch's compiled sides and its CUDA graphs, where they work
measure.py    interleaved timing and the statistics of it
device.py     the processor or the GPU, and the clock of each
machine.py    the machine and its measured ceilings
report.py     table, JSON and plot
entries/      the benchmarks themselves
"""
