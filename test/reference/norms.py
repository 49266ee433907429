"""layer_norm and rms_norm over the last dimension."""

import torch

from case import Case, Random, gradients, leaves

LAYER_NORM = [  # name, R, D, eps, mean of x
    ("3x1", 3, 1, 1.0, 0.0),  # x - mean is zero: only a large eps leaves anything to compare in f32
    ("1x7", 1, 7, 1e-12, 0.0),
    ("300x7", 300, 7, 1e-5, 0.0),
    ("5x64", 5, 64, 1e-12, 0.0),
    ("3x768", 3, 768, 1e-12, 0.0),
    ("offset-6x33", 6, 33, 1e-5, 20.0),
]
RMS_NORM = [  # name, R, D, eps, scale of x
    ("3x1", 3, 1, 1e-5, 0.003),
    ("1x7", 1, 7, 1e-6, 1.0),
    ("130x13", 130, 13, 1e-5, 1.0),
    ("5x64", 5, 64, 1e-5, 1.0),
    ("3x768", 3, 768, 1e-6, 1.0),
    ("small-4x48", 4, 48, 1e-5, 0.003),  # mean(x^2) is about eps, so eps in the wrong place shows
]


def layer_norm(inputs, params):
    x, w, b = leaves(inputs, "x", "w", "b")
    y = torch.nn.functional.layer_norm(x, x.shape[-1:], w, b, params["eps"])
    dx, dw, db = gradients((y * inputs["dy"]).sum(), [x, w, b])
    return {"y": y, "dx": dx, "dw": dw, "db": db}


def rms_norm(inputs, params):
    x, w = leaves(inputs, "x", "w")
    y = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + params["eps"]) * w
    dx, dw = gradients((y * inputs["dy"]).sum(), [x, w])
    return {"y": y, "dx": dx, "dw": dw}


def cases():
    for name, R, D, eps, mean in LAYER_NORM:
        random = Random(f"layer_norm-{name}")
        inputs = {
            "x": random.normal(R, D, mean=mean),
            "w": random.normal(D, scale=0.3, mean=1.0),
            "b": random.normal(D, scale=0.3),
            "dy": random.normal(R, D),
        }
        doc = f"Layer norm of {R} rows of {D}, x of mean {mean} and deviation 1."
        yield Case("layer_norm", name, {"eps": eps}, doc, inputs, layer_norm)
    for name, R, D, eps, scale in RMS_NORM:
        random = Random(f"rms_norm-{name}")
        inputs = {
            "x": random.normal(R, D, scale=scale),
            "w": random.normal(D, scale=0.3, mean=1.0),
            "dy": random.normal(R, D),
        }
        doc = f"RMS norm of {R} rows of {D}, x of deviation {scale}."
        yield Case("rms_norm", name, {"eps": eps}, doc, inputs, rms_norm)
