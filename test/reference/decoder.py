"""What every language model's reference shares: reading a checkpoint, the virtual tokens, the backbone dumps, and the
writing of tiny random checkpoints."""

import json
import os
from functools import partial

import numpy as np
import torch

from case import Case, Random, gradients, int32, leaves, split_rows
from safetensors_file import Bfloat16, read_safetensors, write_safetensors

BOS = 1


class Decoder:
    """A Hugging Face directory. Weights are taken to the inputs' precision. A model defines `embedding` (the name of
    its token embeddings) and `hidden_states`."""

    embedding = None

    def __init__(self, directory):
        with open(os.path.join(directory, "config.json"), encoding="utf-8") as file:
            self.config = json.load(file)
        index = os.path.join(directory, "model.safetensors.index.json")
        files = ["model.safetensors"]
        if os.path.exists(index):
            with open(index, encoding="utf-8") as file:
                files = sorted(set(json.load(file)["weight_map"].values()))
        self._weights = {}
        for name in files:
            tensors, _ = read_safetensors(os.path.join(directory, name))
            self._weights.update(
                {key: torch.from_numpy(np.array(value, np.float32)) for key, value in tensors.items()}
            )

    def weight(self, name, dtype):
        return self._weights[name].to(dtype)

    def embed(self, ids, dtype):
        return self._weights[self.embedding][ids].to(dtype)

    def hidden_states(self, x):
        """All hidden states [T, d] of one sequence of embeddings [T, d], after the final norm; positions 0 .. T-1."""
        raise NotImplementedError

    def bi_tuned(self, ids, lengths, prefix, suffix):
        """h [B, s, d] at the suffix positions of [prefix_b | text_b | suffix]; prefix [B, L, d] or None."""
        rows = []
        for b, text in enumerate(split_rows(ids, lengths)):
            parts = [] if prefix is None else [prefix[b]]
            x = torch.cat([*parts, self.embed(text, suffix.dtype), suffix])
            rows.append(self.hidden_states(x)[-suffix.shape[0] :])
        return torch.stack(rows)


def backbone(model, inputs, params):
    outputs = {}
    if "suffix" in inputs:
        prefix, suffix = leaves(inputs, "prefix", "suffix")
        h = model.bi_tuned(inputs["ids"], inputs["lengths"], prefix, suffix)
        dprefix, dsuffix = gradients((h * inputs["dh"]).sum(), [prefix, suffix])
        outputs = {"h": h, "dprefix": dprefix, "dsuffix": dsuffix}
    text = split_rows(inputs["ids"], inputs["lengths"])[params["text_sequence"]]
    return {**outputs, "text_hidden": model.hidden_states(model.embed(text, torch.get_default_dtype()))}


def exact_in_bf16_and_f16(values):
    """Rounds to 8 significant bits and drops what f16 would hold with fewer, so that all storage types agree."""
    bits = values.astype(np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)
    return np.where(np.abs(rounded) < 2.0**-12, np.float32(0), rounded)


def stored(values, dtype):
    """Weights as a checkpoint of this torch_dtype holds them; those of 16 bits are exact in both of its types."""
    if dtype == "float32":
        return values
    exact = exact_in_bf16_and_f16(values)
    return Bfloat16(exact) if dtype == "bfloat16" else exact.astype(np.float16)


def write_checkpoint(directory, config, weights):
    """One file model.safetensors (name -> float32 array or Bfloat16 ...) and its config.json."""
    os.makedirs(directory, exist_ok=True)
    write_json(os.path.join(directory, "config.json"), config)
    write_safetensors(os.path.join(directory, "model.safetensors"), weights, {"format": "pt"})


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as file:
        file.write(json.dumps(value, indent=1) + "\n")


def texts(random, vocab_size, lengths):
    """Packed random ids [sum of lengths], every text beginning with BOS."""
    parts = [np.concatenate([[BOS], random.ids(3, vocab_size, n - 1)]) for n in lengths]
    return int32(np.concatenate(parts))


def backbone_case(model, name, checkpoint, lengths, ids, L, s, text_sequence, scale=1.0):
    """`ids` None: random ones below `model.vocabulary`."""
    random = Random(f"backbone-{name}")
    d = model.width
    if ids is None:
        ids = texts(random, model.vocabulary, lengths)
    inputs = {"ids": ids, "lengths": int32(lengths)}
    if s > 0:
        inputs["prefix"] = random.normal(len(lengths), L, d, scale=scale)
        inputs["suffix"] = random.normal(s, d, scale=scale)
        inputs["dh"] = random.normal(len(lengths), s, d)
        doc = f"{checkpoint}: {len(lengths)} texts between {L} prefix and {s} suffix tokens; "
    else:
        doc = f"{checkpoint}: text alone; "
    doc += "text_hidden [W, d] is after the final norm, positions from 0."
    params = {"checkpoint": checkpoint, "suffix": s, "text_sequence": text_sequence}
    return Case("backbone", name, params, doc, inputs, partial(backbone, model))
