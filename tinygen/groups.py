"""Parameters that an optimizer updates by one call of its rule, on flat arrays that hold all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinygen.backend import Array, module_of
from tinygen.tensor import Tensor

ALIGNMENT = 16  # bytes, of each parameter in the array that they share on a GPU: what its widest loads ask for


class Group:
    """Parameters of one dtype, with one flat array per slot for all of them together.

    members: their numbers in `parameters`. With only one, nothing is gathered.
    state: by slot, the flat array; `views` has the part of each member.
    in_place: whether one call may update them all.
    """

    resident = False
    in_place = True

    def __init__(self, parameters: Sequence[Tensor], members: list[int], slots: Sequence[str], alignment: int = 1):
        self.members = members
        self._parameters = [parameters[i] for i in members]
        like = self._parameters[0]._data
        xp = module_of(like)
        width = max(1, alignment // like.itemsize)
        self._gaps = [*(-p.size % width for p in self._parameters[:-1]), 0]
        ends = np.cumsum([p.size + gap for p, gap in zip(self._parameters, self._gaps)]).tolist()
        self._spans = [slice(start, start + p.size) for start, p in zip([0, *ends], self._parameters)]
        self.state = {slot: xp.zeros(ends[-1], like.dtype) for slot in slots}
        self.views = {i: {slot: flat[span] for slot, flat in self.state.items()} for i, span in zip(members, self._spans)}
        if len(members) > 1:
            self._param, self._grad = (xp.zeros(ends[-1], like.dtype) for _ in range(2))
            self._param_views, self._grad_views = self._shaped(self._param), self._shaped(self._grad)

    def _shaped(self, flat: Array) -> list[Array]:
        return [flat[span].reshape(p.shape) for span, p in zip(self._spans, self._parameters)]

    def gradient(self) -> Array:
        """All gradients, copied one behind the other."""
        for parameter, grad in zip(self._parameters, self._grad_views):
            grad[...] = parameter.grad
        return self._grad

    def gather(self) -> Array:
        """All parameters, one behind the other."""
        for parameter, param in zip(self._parameters, self._param_views):
            param[...] = parameter._data
        return self._param

    def scatter(self) -> None:
        """Write the gathered parameters back."""
        for parameter, param in zip(self._parameters, self._param_views):
            parameter._data[...] = param


class ResidentGroup(Group):
    """On a GPU, where each copy is a launch: parameters that are moved into the flat array for good, as views of it."""

    resident = True

    def __init__(self, parameters: Sequence[Tensor], members: list[int], slots: Sequence[str]):
        super().__init__(parameters, members, slots, ALIGNMENT)
        super().gather()
        for parameter, param in zip(self._parameters, self._param_views):
            parameter._data = param
        # CuPy joins more than eight arrays by one launch, where assignments are one each.
        self._padding = [module_of(self._grad).zeros(gap, self._grad.dtype) if gap else None for gap in self._gaps]

    @property
    def in_place(self) -> bool:
        """False after somebody gave a parameter another array (another optimizer does); each is then updated by itself."""
        return all(p._data is param for p, param in zip(self._parameters, self._param_views))

    def gradient(self) -> Array:
        """All gradients, copied one behind the other."""
        parts = [part for p, gap in zip(self._parameters, self._padding) for part in (p.grad.ravel(), gap) if part is not None]
        return module_of(self._grad).concatenate(parts, out=self._grad)

    def copied_gradient(self) -> Array:
        """As `gradient`, each by a launch of its own: what joins many arrays by one is sent their addresses by the host, and so
        cannot be part of a CUDA graph."""
        return super().gradient()

    @property
    def gathered(self) -> Array:
        """What the last of the two returned."""
        return self._grad

    def gather(self) -> Array:
        """All parameters, one behind the other, where they lie."""
        return self._param

    def scatter(self) -> None:
        """Nothing: they have been updated where they lie."""
