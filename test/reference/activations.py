"""gelu (tanh approximation, or exact through erf) and swiglu (silu(gate) * up)."""

import numpy as np
import torch

from case import Case, Random, gradients, leaves

# Both zeros, where approximations of erf change branch, and where tanh and exp saturate or overflow in f32. Two
# files, because errors are measured against a tensor's norm and 100 would hide those near zero.
EDGES = {
    "edges": [0.0, -0.0, 1e-7, -1e-7, 0.5, -0.5, 1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 5.5, -5.5],
    "saturated": [10.0, -10.0, 30.0, -30.0, 88.0, -88.0, 100.0, -100.0],
}


def gelu(inputs, params):
    (x,) = leaves(inputs, "x")
    y = torch.nn.functional.gelu(x, approximate=params["approximate"])
    (dx,) = gradients((y * inputs["dy"]).sum(), [x])
    return {"y": y, "dx": dx}


def swiglu(inputs, params):
    gate, up = leaves(inputs, "gate", "up")
    y = torch.nn.functional.silu(gate) * up
    dgate, dup = gradients((y * inputs["dy"]).sum(), [gate, up])
    return {"y": y, "dgate": dgate, "dup": dup}


def cases():
    for approximate in ["tanh", "none"]:
        for n in [3, 301]:
            random = Random(f"gelu-{approximate}-{n}")
            inputs = {"x": random.normal(n, scale=2.0), "dy": random.normal(n)}
            doc = f"GELU, approximate {approximate}, {n} ordinary values."
            yield Case("gelu", f"{approximate}-{n}", {"approximate": approximate}, doc, inputs, gelu)
        for name, values in EDGES.items():
            x = np.array(values, np.float32)
            doc = f"GELU, approximate {approximate}, at special values ({name})."
            inputs = {"x": x, "dy": np.ones_like(x)}
            yield Case("gelu", f"{approximate}-{name}", {"approximate": approximate}, doc, inputs, gelu)
    for R, D in [(1, 1), (5, 7), (3, 172)]:
        random = Random(f"swiglu-{R}x{D}")
        inputs = {
            "gate": random.normal(R, D, scale=2.0),
            "up": random.normal(R, D),
            "dy": random.normal(R, D),
        }
        yield Case("swiglu", f"{R}x{D}", {}, f"SwiGLU of {R} rows of {D}.", inputs, swiglu)
    for name, values in EDGES.items():
        gate = np.array([values], np.float32)
        inputs = {"gate": gate, "up": np.full_like(gate, 1.5), "dy": np.ones_like(gate)}
        yield Case("swiglu", name, {}, f"SwiGLU at special values of the gate ({name}).", inputs, swiglu)
