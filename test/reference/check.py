"""Checks the committed dumps: python3 check.py [--stories DIR].

For every case: the file holds what make.py would write now (and no file is left over); the same computation in
float32 gives the same whole numbers and nearly the same rest, so that a float32 engine can be held to the file;
and every gradient agrees with a central difference of its objective, in float64, along a random direction.
"""

import argparse
import json
import os
import sys

import numpy as np
import torch

from case import to_torch
from make import HERE, all_cases, dump_path, run, to_numpy
from safetensors_file import read_safetensors

STEP = 1e-6  # of the central difference
DIFFERENCE_TOLERANCE = 1e-6  # relative; central differences in float64 reach about 1e-9
FLOAT32_TOLERANCE = 3e-5  # against the root mean square of the tensor

# The scalar whose gradient each kind holds: sum(out * dout) for these pairs, or the named loss.
PAIRS = {
    "linear": ("y", "dy"),
    "conv1d": ("y", "dy"),
    "layer_norm": ("y", "dy"),
    "rms_norm": ("y", "dy"),
    "gelu": ("y", "dy"),
    "swiglu": ("y", "dy"),
    "rope": ("y", "dy"),
    "attention": ("o", "do"),
    "cross_attention": ("o", "do"),
    "aggregate": ("prefix", "dprefix"),
    "mformer": ("prefix", "dprefix"),
    "backbone": ("h", "dh"),
}


def objective(kind, gradient, inputs, outputs):
    """(the input that the output `gradient` is with respect to, the scalar), or None where it is no gradient."""
    if kind == "router" and gradient.startswith("dW_r_"):
        name = gradient[len("dW_r_") :]
        if name.startswith("lb_"):
            return "W_r", outputs[name]
        return "W_r", (outputs[f"gates_{name}"] * inputs[f"dgates_{name}"]).sum()
    if kind == "iic" and gradient == "dh":
        return "h", outputs["loss"]
    if gradient.startswith("g."):
        wrt = f"p.{gradient[2:]}"
    elif gradient.startswith("d") and kind in PAIRS:
        wrt = gradient[1:]
    else:
        return None
    if kind in ("laser_step", "bert4rec", "sasrec"):
        return wrt, outputs["loss"]
    out, dout = PAIRS[kind]
    return wrt, (outputs[out] * inputs[dout]).sum()


def check_file(case, folder, outputs):
    tensors, metadata = read_safetensors(dump_path(folder, case))
    expected = {**case.inputs, **{name: to_numpy(value) for name, value in outputs.items()}}
    assert metadata == {"kind": case.kind, "params": json.dumps(case.params), "doc": case.doc}, "metadata"
    assert list(tensors) == list(expected), "names"
    for name, value in expected.items():
        assert tensors[name].dtype == value.dtype and tensors[name].shape == value.shape, name
        # Another build of torch may sum in another order: one part in 10^6 after rounding to f32.
        assert np.allclose(tensors[name], value, rtol=1e-6, atol=1e-9), name


def float32_error(case, outputs):
    """Largest error of the float32 run against the root mean square of its tensor, and that tensor's name."""
    worst = (0.0, "-")
    for name, value in run(case, torch.float32).items():
        reference = outputs[name]
        if value.dtype == torch.int64:
            assert torch.equal(value, reference), f"{name} differs in float32"
            continue
        scale = max(float(reference.pow(2).mean().sqrt()), 1e-3)
        if name.endswith("k.bias"):  # zero in theory: rounding noise, which Adam turns into steps
            if name.startswith("after"):
                continue
            scale = 1.0
        worst = max(worst, (float((value.double() - reference).abs().max()) / scale, name))
    return worst


def difference_error(case, outputs):
    """Largest relative error of a gradient against a central difference, and its name."""
    generator = torch.Generator().manual_seed(1)
    base = to_torch(case.inputs, torch.float64)
    worst = (0.0, "-")
    for gradient, value in outputs.items():
        found = objective(case.kind, gradient, base, outputs)
        if found is None:
            continue
        wrt = found[0]
        direction = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        direction = direction / direction.norm()
        sides = []
        for sign in (STEP, -STEP):
            moved = {**base, wrt: base[wrt] + sign * direction}
            after = {name: t.detach() for name, t in case.compute(moved, case.params).items()}
            sides.append(float(objective(case.kind, gradient, moved, after)[1]))
        difference = (sides[0] - sides[1]) / (2 * STEP)
        # The rounding of the objective itself, divided by the step, is the floor.
        scale = max(float(value.norm()), 1e-2 * max(abs(sides[0]), 1.0))
        worst = max(worst, (abs(difference - float((value * direction).sum())) / scale, gradient))
    return worst


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stories", metavar="DIR", help="the stories260K checkpoint directory")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = os.path.join(HERE, "dumps")
    left = {name for name in os.listdir(folder) if name.endswith(".safetensors")}
    failures = 0
    for case in all_cases(folder, arguments.stories):
        title = f"{case.kind}-{case.name}"
        left.discard(f"{title}.safetensors")
        outputs = run(case)
        try:
            check_file(case, folder, outputs)
            if case.kind == "router" and "identical rows" in case.doc:
                # A move breaks the tie, and so does PyTorch in float32, whose vector and scalar exp differ.
                print(f"{title}: planted ties, only the file was checked")
                continue
            single, name = float32_error(case, outputs)
            assert single < FLOAT32_TOLERANCE, f"{name} is {single:.1e} off in float32"
            torch.set_default_dtype(torch.float64)
            central, gradient = difference_error(case, outputs)
            assert central < DIFFERENCE_TOLERANCE, f"{gradient} is {central:.1e} off its central difference"
            print(f"{title}: float32 {single:.1e} ({name}), differences {central:.1e} ({gradient})")
        except AssertionError as error:
            print(f"{title}: FAILED: {error}")
            failures += 1
    for name in sorted(left):
        print(f"{name}: FAILED: no case makes it")
    sys.exit(1 if failures or left else 0)


if __name__ == "__main__":
    main()
