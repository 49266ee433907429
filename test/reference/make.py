"""Makes the reference dumps: python3 make.py [--only KIND] [--stories DIR] [--out DIR]. See README.md beside it."""

import argparse
import json
import os
import sys

import torch

import activations
import adam
import attention
import chatglm2
import gpt2
import itemset
import kernels_linear
import laser_step
import llama
import llama_family
import mformer
import norms
import recommenders
import router
from case import to_torch
from safetensors_file import write_safetensors

HERE = os.path.dirname(os.path.abspath(__file__))


def all_cases(folder, stories):
    """Every case. The checkpoints must already lie in `folder`."""
    for family in [kernels_linear, norms, activations, attention, router, itemset, adam, mformer, recommenders]:
        yield from family.cases()
    yield from llama.cases(folder, stories)
    for model in [llama_family, gpt2, chatglm2]:
        yield from model.cases(folder)
    yield from laser_step.cases(folder)


def run(case, dtype=torch.float64):
    """The case's outputs, detached, computed in `dtype`."""
    torch.set_default_dtype(dtype)
    return {
        name: value.detach()
        for name, value in case.compute(to_torch(case.inputs, dtype), case.params).items()
    }


def to_numpy(value):
    whole = value.dtype == torch.int64
    return value.to(torch.int32 if whole else torch.float32).numpy()


def dump_path(folder, case):
    # Dumps that need a checkpoint from elsewhere lie apart: what is in `folder` runs by itself.
    if case.name == "stories260K":
        folder = f"{folder}-published"
    return os.path.join(folder, f"{case.kind}-{case.name}.safetensors")


def write_case(folder, case):
    outputs = run(case)
    for name, value in outputs.items():
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{case.kind}-{case.name}: {name} is not finite")
    tensors = {**case.inputs, **{name: to_numpy(value) for name, value in outputs.items()}}
    if len(tensors) != len(case.inputs) + len(outputs):
        raise ValueError(f"{case.kind}-{case.name}: an output has the name of an input")
    metadata = {"kind": case.kind, "params": json.dumps(case.params), "doc": case.doc}
    path = dump_path(folder, case)
    write_safetensors(path, tensors, metadata)
    return os.path.getsize(path)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", metavar="KIND", help="make the dumps of one kind only")
    parser.add_argument(
        "--stories", metavar="DIR", help="the stories260K checkpoint directory, for its backbone dump"
    )
    parser.add_argument(
        "--out", metavar="DIR", default=os.path.join(HERE, "dumps"), help="where the dumps go"
    )
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    torch.set_num_threads(1)
    for folder in (arguments.out, f"{arguments.out}-published"):
        os.makedirs(folder, exist_ok=True)
    llama.write_tiny_checkpoints(arguments.out)
    llama_family.write_tiny_checkpoints(arguments.out)
    gpt2.write_tiny_checkpoint(arguments.out)
    chatglm2.write_tiny_checkpoint(arguments.out)
    count = 0
    for case in all_cases(arguments.out, arguments.stories):
        if arguments.only in (None, case.kind):
            size = write_case(arguments.out, case)
            print(f"{case.kind}-{case.name}: {size / 1024:.1f} KiB")
            count += 1
    if count == 0:
        sys.exit(f"no case is of kind {arguments.only}")
    if not arguments.stories:
        print("backbone-stories260K was left as it is: give --stories DIR to make it")


if __name__ == "__main__":
    main()
