"""CuPy as it treats its callers, on this machine's processor: an array type that never mixes with NumPy's.

    with strict_cupy():
        model.to("cuda")        # arrays of the type below; kernels run through the shim
        with launches() as log:
            model(x)            # log: by name, what would be a launch on a device, or a transfer

Inside, `import cupy` gives a namespace that has what the installed CuPy has, and nothing else: a function that CuPy lacks, or
an argument that its function does not take, is an error. So is a NumPy array among the arguments, an index that is one, an
assignment of one, and `numpy.asarray` of an array of this type; `cupy.asarray` and `cupy.asnumpy` are the only ways in and out.
A stream captures what is done (graphs.py), and then these ways are errors too, as are products of matrices.
Results without axes are arrays, as CuPy's are, and not scalars. What `empty` returns is NaN. Of the values that an assignment
writes to one element the first is kept, as it may be on a device, where NumPy keeps the last. Other values are NumPy's.
"""

import collections
import contextlib
import functools
import inspect
import operator
import re
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from cuda_shim import CudaOnCpu, Function, RawModule, imported_as_cupy
from cuda_shim.graphs import Stream, performed, refuse, refuse_cublas

try:
    import cupy as real
except ImportError:
    real = None

no_cupy = pytest.mark.skipif(real is None, reason="needs CuPy, whose signatures are checked: pip install 'tinygen[cuda13]'")
REFUSED = "NumPy's array meets CuPy's: CuPy refuses this, convert it with to_device or asarray"
CONVERTERS = ("array", "asarray")  # functions that take NumPy's arrays
SCATTERED = {"add": "eifdILQFD", "maximum": "ifdILQ", "minimum": "ifdILQ"}  # dtypes that the method `at` of a ufunc takes


WAITING = ("item", "tolist", "nonzero", "flatnonzero", "argwhere", "unique")  # for a number, or a size, that the host needs
JOINING, JOINED = ("concatenate", "stack", "hstack", "vstack"), 8
MASKED = 12  # launches of an assignment through a boolean index, about
_log: collections.Counter[str] = collections.Counter()


@contextlib.contextmanager
def launches() -> Iterator[collections.Counter[str]]:
    """Count, by function, what would be a launch or a transfer on a device: not what returns a view, or memory as it is."""
    log: collections.Counter[str] = collections.Counter()
    before = _log.copy()
    try:
        yield log
    finally:
        log.update(_log - before)


class ndarray:  # noqa: N801 - CuPy's name
    """An array on the stand-in's device."""

    __slots__ = ("_array", "base")
    __hash__ = None
    __array_priority__ = 100

    def __init__(self, array: np.ndarray, base: "ndarray | None" = None):
        self._array, self.base = array, base

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`.")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method != "__call__" or any(isinstance(x, np.ndarray) for x in inputs):
            return NotImplemented  # which makes NumPy raise TypeError
        return getattr(NAMESPACE, ufunc.__name__)(*inputs, **kwargs)

    def __array_function__(self, function: Callable, kinds: Any, args: tuple, kwargs: dict) -> Any:
        return getattr(NAMESPACE, function.__name__)(*args, **kwargs) if set(kinds) == {ndarray} else NotImplemented

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(real.ndarray, name):
            raise AttributeError(f"cupy.ndarray has no attribute {name!r}")
        value = getattr(self._array, name)
        if not callable(value):
            return _wrapped(value, self)
        return functools.partial(_called, value, _signature(getattr(real.ndarray, name)), False, self)

    @property
    def device(self) -> Any:
        return NAMESPACE.cuda.Device()

    @property
    def flags(self) -> Any:
        flags = self._array.flags
        return types.SimpleNamespace(c_contiguous=flags.c_contiguous, f_contiguous=flags.f_contiguous, owndata=flags.owndata)

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array.__dlpack_device__()

    def get(self) -> np.ndarray:
        refuse("a transfer to the host")
        _log["get"] += 1
        return self._array.copy()

    def __getitem__(self, index: Any) -> "ndarray":
        _log["getitem"] += any(isinstance(part, (ndarray, list)) for part in _parts(index))
        if any(isinstance(part, list) or (isinstance(part, ndarray) and part.dtype.kind == "b") for part in _parts(index)):
            refuse("an index that is a list or a mask")
        return _wrapped(performed(operator.getitem, self._array, _index(index)), self)

    def __setitem__(self, index: Any, value: Any) -> None:
        index = _index(index)
        _log["setitem"] += (
            MASKED if any(isinstance(part, np.ndarray) and part.dtype.kind == "b" for part in _parts(index)) else 1
        )
        if any(isinstance(part, list) for part in _parts(index)):
            refuse("an index that is a list")
        performed(_assigned, self._array, index, _bare(value))

    def __len__(self) -> int:
        return len(self._array)

    def __iter__(self) -> Iterator["ndarray"]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return repr(self._array)


def _assigned(array: np.ndarray, index: Any, value: Any) -> None:
    if any(isinstance(part, (np.ndarray, list)) and np.asarray(part).dtype.kind in "iu" for part in _parts(index)):
        places = np.arange(array.size).reshape(array.shape)[index]
        values = np.empty(places.shape, array.dtype)
        values[...] = value
        places, first = np.unique(places, return_index=True)
        np.put(array, places, values.reshape(-1)[first])
    else:
        array[index] = value


def _operators() -> None:
    """Give the type CuPy's operators: both sides, and in place."""
    unary = ["neg", "pos", "abs", "invert"]
    compared = ["eq", "ne", "lt", "le", "gt", "ge"]
    binary = ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor", "lshift", "rshift"]
    for name in unary + compared + binary:
        function = getattr(operator, f"__{name}__")
        setattr(ndarray, f"__{name}__", lambda self, *other, f=function: _operated(f, self, *other))
        if name in binary:
            setattr(ndarray, f"__r{name}__", lambda self, other, f=function: _operated(f, other, self))
            if name != "matmul":  # which CuPy's arrays have no in-place form of
                setattr(ndarray, f"__i{name}__", lambda self, other, f=f"__i{name}__": _in_place(f, self, other))
    for kind in (bool, int, float, complex):
        setattr(ndarray, f"__{kind.__name__}__", lambda self, kind=kind: kind(self.get().item()))


def _operated(function: Callable, *sides: Any) -> Any:
    if not all(isinstance(side, (ndarray, bool, int, float, complex, np.generic, np.ndarray)) for side in sides):
        return NotImplemented
    refuse_cublas(function.__name__, sides)
    _log[function.__name__] += 1
    return _wrapped(performed(function, *map(_bare, sides)))


def _in_place(name: str, self: ndarray, other: Any) -> ndarray:
    _log[name] += 1
    performed(getattr(self._array, name), _bare(other))
    return self


_operators()


def _index(index: Any) -> Any:
    return tuple(map(_bare, index)) if isinstance(index, tuple) else _bare(index)


def _parts(index: Any) -> tuple:
    return index if isinstance(index, tuple) else (index,)


def _bare(value: Any) -> Any:
    """`value` with NumPy's arrays in place of the stand-in's; TypeError where NumPy's are already."""
    if isinstance(value, ndarray):
        return value._array
    if isinstance(value, np.ndarray):
        raise TypeError(REFUSED)
    if isinstance(value, (tuple, list)):
        return type(value)(map(_bare, value))
    return value


def _wrapped(value: Any, *sources: Any) -> Any:
    """`value` with the stand-in's arrays in place of NumPy's; a view keeps hold of the source that it looks into."""
    if isinstance(value, (tuple, list)) and any(isinstance(part, (np.ndarray, np.generic)) for part in value):
        return type(value)([_wrapped(part, *sources) for part in value])
    if isinstance(value, np.generic):
        return ndarray(np.asarray(value))
    if not isinstance(value, np.ndarray):
        return value
    for source in sources:
        if isinstance(source, ndarray):
            if source._array is value:
                return source
            if _memory(source._array) is _memory(value):
                return ndarray(value, source if source.base is None else source.base)
    return ndarray(value)


def _memory(array: np.ndarray) -> np.ndarray:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _called(function: Callable, signature: inspect.Signature | None, converts: bool, *args: Any, **kwargs: Any) -> Any:
    """NumPy's `function` as CuPy's of that `signature`. A method's first argument is its array."""
    if signature is not None:
        signature.bind(*args, **kwargs)  # TypeError for an argument that CuPy's function does not take
    sources = [part for value in (*args, *kwargs.values()) for part in (value if isinstance(value, (tuple, list)) else [value])]
    if not converts:
        args, kwargs = _bare(args), {name: _bare(value) for name, value in kwargs.items()}
    bound = isinstance(getattr(function, "__self__", None), np.ndarray)
    if function.__name__ in WAITING:
        refuse(function.__name__)
    refuse_cublas(function.__name__, sources)
    if function.__name__ in JOINING and len(sources) > JOINED:
        refuse(f"{function.__name__} of more than {JOINED} arrays, whose addresses the host sends,")
    result = _wrapped(performed(function, *args[bound:], **kwargs), *sources)
    made = result if isinstance(result, list) else [result]
    _log[function.__name__] += "out" in kwargs or not all(_is_free(part, sources) for part in made)
    return result


def _is_free(result: Any, sources: list[Any]) -> bool:
    """Whether nothing runs on a device to get it: an array that is or looks into one of the sources, or a shape."""
    if not isinstance(result, ndarray):
        return isinstance(result, (int, tuple))
    arrays = [source for source in sources if isinstance(source, ndarray)]
    return any(result is x or (result.base is not None and (result.base is x or result.base is x.base)) for x in arrays)


@functools.cache
def _signature(function: Any) -> inspect.Signature | None:
    """CuPy's signature of a function or method; of those in C it stands in the docstring. None for one that is unknown."""
    if isinstance(function, real.ufunc):
        keywords = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in ("out", "dtype", "casting")
        ]
        return inspect.Signature([inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL), *keywords])
    with contextlib.suppress(ValueError, TypeError):
        return inspect.signature(function)
    documented = re.match(r"[\w.]+\((.*)\)", (function.__doc__ or "").partition("\n")[0])
    if documented is None:
        return None
    parameters = re.sub(r"\b\w+ (\w+)", r"\1", documented[1])  # without C's types
    scope: dict[str, Any] = {}
    exec(f"def function({parameters}): pass", scope)
    return inspect.signature(scope["function"])


class Library:
    """The functions of CuPy, or of one of its modules, on the stand-in's arrays."""

    def __init__(self, theirs: types.ModuleType, numpys: types.ModuleType):
        self._theirs, self._numpys = theirs, numpys

    def __getattr__(self, name: str) -> Any:
        theirs, ours = getattr(self._theirs, name), getattr(self._numpys, name)
        if isinstance(theirs, types.ModuleType):
            return Library(theirs, ours)
        if isinstance(theirs, type) or not callable(theirs):
            return theirs
        return Routine(theirs, ours, name in CONVERTERS)


class Routine:
    """A function of CuPy; for a ufunc with the methods that CuPy gives it."""

    def __init__(self, theirs: Any, ours: Any, converts: bool = False):
        self._theirs, self._ours, self._converts = theirs, ours, converts

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._converts:
            if not isinstance(args[0], ndarray):
                refuse("a transfer from the host")
            args = tuple(x._array if isinstance(x, ndarray) else x for x in args)
        return _called(self._ours, _signature(self._theirs), self._converts, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "at":
            return functools.partial(_scattered, self)
        return Routine(getattr(self._theirs, name), getattr(self._ours, name))


def _scattered(routine: Routine, target: ndarray, index: Any, values: Any) -> None:
    """`ufunc.at`, of the dtypes that CuPy has an atomic operation for."""
    name = routine._ours.__name__
    if target.dtype.char not in SCATTERED[name]:
        raise TypeError(f"cupy.{name}.at does not support {target.dtype}")
    performed(routine._ours.at, target._array, _index(index), _bare(values))


class StrictCupy(CudaOnCpu):
    """The namespace. `asarray` of an array that is one of them is that array."""

    def __init__(self, multiprocessors: int = 4, seed: int = 1):
        super().__init__(multiprocessors, seed)
        self._library = Library(real, np)
        self.ndarray = ndarray
        device = contextlib.nullcontext()
        device.id, device.attributes, device.use = 0, self.cuda.Device().attributes, lambda: None
        device.compute_capability = "90"
        self.cuda.Device = lambda number=0: device
        self.cuda.Event = Event
        self.cuda.Stream = functools.partial(Stream, log=_log)
        self.cuda.get_current_stream = self.cuda.Stream
        self.cuda.MemoryPool = lambda: types.SimpleNamespace(malloc=None)
        self.cuda.using_allocator = lambda allocator: contextlib.nullcontext()
        self.cuda.get_elapsed_time = lambda first, last: 1e3 * (last.time - first.time)
        self.cuda.runtime.driverGetVersion = self.cuda.runtime.runtimeGetVersion = lambda: 13000
        properties = {"name": b"stand-in", "multiProcessorCount": multiprocessors, "totalGlobalMem": 1 << 30}
        self.cuda.runtime.getDeviceProperties = lambda number: properties
        self.RawModule = functools.partial(StrictModule, seed=seed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def asarray(self, a: Any, dtype: Any = None) -> ndarray:
        if isinstance(a, ndarray):
            return a if dtype in (None, a.dtype) else a.astype(dtype)
        refuse("a transfer from the host")
        _log["asarray"] += 1
        return ndarray(np.array(a, dtype))

    def asnumpy(self, a: Any) -> np.ndarray:
        return a.get() if isinstance(a, ndarray) else np.asarray(a)

    def empty(self, shape: Any, dtype: Any = float) -> ndarray:
        return ndarray(performed(super().empty, shape, dtype))

    def ascontiguousarray(self, a: ndarray, dtype: Any = None) -> ndarray:
        same = dtype in (None, a.dtype) and a.flags.c_contiguous
        return a if same else self._library.ascontiguousarray(a, dtype)


class Event:
    """A moment in the stream, which here is at hand as soon as it is recorded."""

    def record(self) -> None:
        self.time = time.perf_counter()

    def synchronize(self) -> None:
        assert self.time


class StrictFunction(Function):
    """A kernel that takes the stand-in's arrays, and no others."""

    def __call__(self, grid: tuple, block: tuple, args: tuple, **options: Any) -> None:
        _log[self.name] += 1
        performed(super().__call__, grid, block, _bare(args), **options)


class StrictModule(RawModule):
    """Its kernels are of that kind."""

    def get_function(self, name: str) -> StrictFunction:
        return StrictFunction(self.compile(), name, self._seed)


NAMESPACE = StrictCupy() if real else None


@contextlib.contextmanager
def strict_cupy() -> Iterator[StrictCupy]:
    """Let `import cupy` find the stand-in, here and in every module that asks for CuPy."""
    with imported_as_cupy(NAMESPACE):
        yield NAMESPACE


ndarray.__module__ = "cupy"
