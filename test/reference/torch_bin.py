"""Checkpoints written by torch.save itself, and their twins: python3 torch_bin.py [--check BIN TWIN].

Writes torch-bin/: pytorch_model.bin (every dtype, tied tensors, a slice of a storage, a Parameter, a scalar, an empty
tensor), the same tensors in two shards with their index, and model.safetensors with the same values.

--check loads any .bin (this project's src/files/torch-bin-write.ts writes some) with torch.load and compares it with a
safetensors file, bit for bit.
"""

import argparse
import collections
import json
import os
import sys

import numpy as np
import torch
from safetensors_file import read_raw, write_safetensors

HERE = os.path.dirname(os.path.abspath(__file__))
NAMES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def tensors():
    random = np.random.default_rng(20241)
    values = torch.from_numpy(random.standard_normal((13, 24)).astype(np.float32))
    # Every finite pattern class of 16 bits: subnormal, huge, both signs, and infinities and NaN, which a reader of
    # files passes on.
    patterns = torch.arange(-32768, 32768, 61, dtype=torch.int16)
    embedding = values[:7].clone()
    state = collections.OrderedDict()
    state["transformer.embedding.weight"] = embedding
    state["transformer.layers.0.weight"] = values.half()
    state["transformer.layers.0.bias"] = values[0].bfloat16()
    state["transformer.layers.0.norm"] = torch.nn.Parameter(torch.ones(24), requires_grad=False)
    state["half.patterns"] = patterns.clone().view(torch.float16)
    state["bfloat.patterns"] = patterns.clone().view(torch.bfloat16)
    # A slice in the middle of the embedding's storage, and rows that are one row each (strides that say nothing).
    state["slice"] = embedding[2:5]
    state["column.of.one"] = embedding[:, :1][:1]
    state["scalar"] = torch.tensor(-2.5)
    state["empty"] = torch.zeros(0, 3)
    state["double"] = values[1, :5].double() / 3
    state["long"] = torch.tensor([[1, -2], [2**40, -(2**62)]])
    state["int"] = torch.arange(-3, 4, dtype=torch.int32)
    state["short"] = torch.arange(-3, 4, dtype=torch.int16)
    state["char"] = torch.arange(-3, 4, dtype=torch.int8)
    state["byte"] = torch.arange(0, 7, dtype=torch.uint8)
    state["bool"] = torch.tensor([True, False, True]).view(1, 3)
    state["lm_head.weight"] = embedding
    # As nn.Module.state_dict() has it.
    state._metadata = collections.OrderedDict([("", {"version": 1})])
    return state


def raw(tensor):
    """dtype, shape and bytes."""
    flat = tensor.detach().contiguous().flatten()
    if tensor.dtype in (torch.float16, torch.bfloat16):
        flat = flat.view(torch.int16)
    return NAMES[tensor.dtype], list(tensor.shape), flat.numpy().tobytes()


def write():
    folder = os.path.join(HERE, "torch-bin")
    os.makedirs(os.path.join(folder, "sharded"), exist_ok=True)
    state = tensors()
    torch.save(state, os.path.join(folder, "pytorch_model.bin"))
    write_safetensors(os.path.join(folder, "model.safetensors"), {name: raw(t) for name, t in state.items()})
    weight_map = {}
    items = list(state.items())
    for i, part in enumerate([items[:9], items[9:]]):
        shard = f"pytorch_model-0000{i + 1}-of-00002.bin"
        torch.save(dict(part), os.path.join(folder, "sharded", shard))
        weight_map.update({name: shard for name, _ in part})
    with open(os.path.join(folder, "sharded", "pytorch_model.bin.index.json"), "w") as file:
        json.dump({"metadata": {}, "weight_map": weight_map}, file, indent=2)
        file.write("\n")


def check(path, twin):
    expected = read_raw(twin)
    found = {name: raw(tensor) for name, tensor in torch.load(path, map_location="cpu").items()}
    if found.keys() != expected.keys():
        sys.exit(f"{path}: names differ: {sorted(found.keys() ^ expected.keys())}")
    for name in found:
        if found[name] != expected[name]:
            sys.exit(f"{path}: tensor {name} differs from {twin}")
    print(f"{path}: {len(found)} tensors, the same as in {twin}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", nargs=2, metavar=("BIN", "TWIN"))
    arguments = parser.parse_args()
    if arguments.check:
        check(*arguments.check)
    else:
        write()


if __name__ == "__main__":
    main()
