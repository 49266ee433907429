"""A plain Llama forward pass, two tiny random checkpoints in Hugging Face layout, and their backbone dumps."""

import os

import numpy as np
import torch

from attention import attend, rotate
from case import Random, int32
from decoder import BOS, Decoder, backbone_case, exact_in_bf16_and_f16, texts, write_checkpoint, write_json
from safetensors_file import Bfloat16, write_safetensors


class Llama(Decoder):
    """A LlamaForCausalLM."""

    embedding = "model.embed_tokens.weight"

    @property
    def width(self):
        return self.config["hidden_size"]

    @property
    def vocabulary(self):
        return self.config["vocab_size"]

    def hidden_states(self, x):
        """All hidden states [T, d] of one sequence of embeddings [T, d], after the final norm; positions 0 .. T-1."""
        config = self.config
        heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
        h = config["hidden_size"] // heads

        def weight(name):
            return self.weight(f"model.{name}.weight", x.dtype)

        def rms_norm(rows, name):
            return (
                rows
                * torch.rsqrt((rows * rows).mean(-1, keepdim=True) + config["rms_norm_eps"])
                * weight(name)
            )

        def turn(rows):
            return rotate(rows, 0, "half", h, config["rope_theta"])

        for n in range(config["num_hidden_layers"]):
            layer = f"layers.{n}"
            y = rms_norm(x, f"{layer}.input_layernorm")
            q = (y @ weight(f"{layer}.self_attn.q_proj").T).unflatten(-1, (heads, h))
            k = (y @ weight(f"{layer}.self_attn.k_proj").T).unflatten(-1, (groups, h))
            v = (y @ weight(f"{layer}.self_attn.v_proj").T).unflatten(-1, (groups, h))
            o, _ = attend(turn(q), turn(k), v, causal=True)
            x = x + o.flatten(-2) @ weight(f"{layer}.self_attn.o_proj").T
            y = rms_norm(x, f"{layer}.post_attention_layernorm")
            gate, up = y @ weight(f"{layer}.mlp.gate_proj").T, y @ weight(f"{layer}.mlp.up_proj").T
            x = x + (torch.nn.functional.silu(gate) * up) @ weight(f"{layer}.mlp.down_proj").T
        return rms_norm(x, "norm")


TINY = {  # the two checkpoints' configurations
    "llama-tiny": dict(
        hidden_size=32,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=97,
        max_position_embeddings=128,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        tie_word_embeddings=False,
        torch_dtype="float32",
    ),
    "llama-tiny-sharded": dict(
        hidden_size=48,
        intermediate_size=100,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        vocab_size=101,
        max_position_embeddings=64,
        rms_norm_eps=1e-6,
        rope_theta=500.0,
        tie_word_embeddings=True,
        torch_dtype="bfloat16",
    ),
}


def tiny_weights(name, config):
    random = Random(name)
    d, inner = config["hidden_size"], config["intermediate_size"]
    kv = d // config["num_attention_heads"] * config["num_key_value_heads"]
    weights = {"model.embed_tokens.weight": random.normal(config["vocab_size"], d)}
    for n in range(config["num_hidden_layers"]):
        layer = f"model.layers.{n}"
        for part, rows, columns in [
            ("self_attn.q_proj", d, d),
            ("self_attn.k_proj", kv, d),
            ("self_attn.v_proj", kv, d),
            ("self_attn.o_proj", d, d),
            ("mlp.gate_proj", inner, d),
            ("mlp.up_proj", inner, d),
            ("mlp.down_proj", d, inner),
        ]:
            weights[f"{layer}.{part}.weight"] = random.normal(rows, columns, scale=columns**-0.5)
        for part in ["input_layernorm", "post_attention_layernorm"]:
            weights[f"{layer}.{part}.weight"] = random.normal(d, scale=0.2, mean=1.0)
    weights["model.norm.weight"] = random.normal(d, scale=0.2, mean=1.0)
    return weights


def write_tiny_checkpoints(folder):
    """Writes both checkpoints: one F32 file with the extra tensors that old checkpoints hold and readers ignore, and
    two BF16 shards with an index, tied embeddings and grouped key/value heads."""
    for name, config in TINY.items():
        directory = os.path.join(folder, name)
        weights = tiny_weights(name, config)
        common = dict(
            architectures=["LlamaForCausalLM"],
            model_type="llama",
            hidden_act="silu",
            bos_token_id=BOS,
            eos_token_id=2,
        )
        if config["torch_dtype"] == "float32":
            h = config["hidden_size"] // config["num_attention_heads"]
            inv_freq = config["rope_theta"] ** (-np.arange(0, h, 2) / h)
            weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = inv_freq.astype(np.float32)
            weights["lm_head.weight"] = Random("lm_head").normal(config["vocab_size"], config["hidden_size"])
            write_checkpoint(directory, {**common, **config}, weights)
            continue
        os.makedirs(directory, exist_ok=True)
        write_json(os.path.join(directory, "config.json"), {**common, **config})
        stored = {key: Bfloat16(exact_in_bf16_and_f16(value)) for key, value in weights.items()}
        names = list(stored)
        shards = [names[: len(names) // 2], names[len(names) // 2 :]]  # the cut falls inside a layer
        weight_map = {}
        for n, members in enumerate(shards):
            file = f"model-{n + 1:05d}-of-{len(shards):05d}.safetensors"
            write_safetensors(
                os.path.join(directory, file), {key: stored[key] for key in members}, {"format": "pt"}
            )
            weight_map.update({key: file for key in members})
        total = sum(value.bits.nbytes for value in stored.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(os.path.join(directory, "model.safetensors.index.json"), index)


# "Once upon a time, there was a little girl named Lily." and "Tom and his dog went to the park." with BOS.
STORIES = [
    [1, 403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315, 421, 395, 317, 426],
    [1, 274, 287, 269, 345, 400, 428, 263, 377, 267, 265, 282, 295, 433, 426],
]
BACKBONE = [  # name, checkpoint, text lengths, L, s, text_sequence
    ("llama-tiny", "llama-tiny", [1, 7, 12], 3, 1, 2),
    ("llama-tiny-two-suffix", "llama-tiny", [5], 1, 2, 0),
    ("llama-tiny-sharded", "llama-tiny-sharded", [9, 2, 1, 17], 2, 2, 3),
    ("llama-tiny-text-only", "llama-tiny", [4, 21], 0, 0, 1),
    ("llama-tiny-sharded-text-only", "llama-tiny-sharded", [1], 0, 0, 0),
]


def cases(folder, stories):
    for name, checkpoint, lengths, L, s, text_sequence in BACKBONE:
        model = Llama(os.path.join(folder, checkpoint))
        yield backbone_case(model, name, checkpoint, lengths, None, L, s, text_sequence)
    if stories:
        ids = int32(sum(STORIES, []))
        lengths = [len(text) for text in STORIES]
        yield backbone_case(
            Llama(stories), "stories260K", "stories260K", lengths, ids, 4, 2, 0, scale=0.5
        )
