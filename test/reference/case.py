"""What a reference case is, and what the families share: seeded inputs, gradients, ragged sequences."""

import zlib
from dataclasses import dataclass
from typing import Callable

import numpy as np
import torch


@dataclass
class Case:
    """One dump. `compute(inputs, params)` maps the inputs (torch tensors, all floats of one precision, ids int64)
    to the outputs; make.py runs it in float64."""

    kind: str
    name: str
    params: dict
    doc: str
    inputs: dict
    compute: Callable


class Random:
    """Inputs of one case, seeded by its name, so that a new case never changes the files of the others."""

    def __init__(self, name):
        self._generator = np.random.default_rng(zlib.crc32(name.encode()))

    def normal(self, *shape, scale=1.0, mean=0.0):
        return (mean + scale * self._generator.standard_normal(shape)).astype(np.float32)

    def ids(self, low, high, *shape):
        return self._generator.integers(low, high, shape).astype(np.int32)


def int32(values):
    return np.array(values, np.int32)


def to_torch(inputs, dtype):
    """Numpy inputs as torch tensors: floats in `dtype`, whole numbers in int64."""
    return {
        name: (
            torch.from_numpy(value.astype(np.int64))
            if value.dtype == np.int32
            else torch.from_numpy(value).to(dtype)
        )
        for name, value in inputs.items()
    }


def leaves(inputs, *names):
    """Fresh autograd leaves of the named inputs."""
    return [inputs[name].clone().requires_grad_() for name in names]


def gradients(scalar, variables):
    """d scalar / d variable for a dict or list of leaves, in the same container; zero where nothing depends on it."""
    items = list(variables.values()) if isinstance(variables, dict) else list(variables)
    found = torch.autograd.grad(scalar, items, allow_unused=True, retain_graph=True)
    found = [torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(items, found)]
    return dict(zip(variables, found)) if isinstance(variables, dict) else found


def split_rows(packed, lengths):
    """The sequences of a packed tensor [sum of lengths, ...]."""
    return torch.split(packed, [int(n) for n in lengths])


def require_clear_head(values, n, margin, what, ties_allowed=False):
    """Fails when rounding in f32 could change which are the n largest of `values` [m], or their order: when two
    neighbours among the n + 1 largest differ by less than `margin`. Exact ties pass where they are planted.
    """
    head = torch.sort(values.detach().double(), descending=True).values[: n + 1]
    gaps = -head.diff()
    bad = (gaps < margin) & (gaps > 0) if ties_allowed else gaps < margin
    if bool(bad.any()):
        raise ValueError(
            f"{what}: two values are closer than {margin}; choose another seed (rename the case)"
        )
