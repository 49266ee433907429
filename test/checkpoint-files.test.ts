import { copyFileSync, mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { bfloatsToFloats, halvesToFloats } from "../src/files/half.ts";
import { type StoredType, type TensorToWrite, writeSafetensors } from "../src/files/safetensors.ts";
import { readSafetensors } from "../src/files/safetensors-whole.ts";
import { writeTorchBin } from "../src/files/torch-bin-write.ts";
import { UserError } from "../src/files/user-error.ts";
import { openDecoderCheckpoint } from "../src/llm/checkpoint.ts";
import { openCheckpoint } from "../src/llm/checkpoint-index.ts";
import { parseDecoderConfig, readDecoderConfig } from "../src/llm/config.ts";
import type { DecoderConfig } from "../src/llm/decoder-config.ts";
import { sourceTensors, weightSources } from "../src/llm/decoder-weights.ts";
import { locateBackbone } from "../src/llm/locate.ts";
import { quantizeRows } from "../src/llm/quantize.ts";
import { streamWeights, WEIGHT_STORAGES, type WeightStorage } from "../src/llm/weight-stream.ts";
import { repositoryPath, sharedPath } from "./shared.ts";

const t = suite("checkpoints");
const folder = mkdtempSync(join(tmpdir(), "checkpoint-"));
t.after(() => rmSync(folder, { recursive: true }));
let directories = 0;
function directory(): string {
  const path = join(folder, String(directories++));
  mkdirSync(path);
  return path;
}

async function refusal(run: () => unknown): Promise<string> {
  try {
    await run();
  } catch (error) {
    assert.instance(error, UserError);
    assert.not.match((error as Error).message, "\n");
    return (error as Error).message;
  }
  throw new Error("it was accepted");
}

const JSON_CONFIG = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  hidden_act: "silu",
  hidden_size: 8,
  intermediate_size: 6,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  vocab_size: 5,
  max_position_embeddings: 16,
  rms_norm_eps: 1e-5,
  rope_theta: 500,
  tie_word_embeddings: true,
  bos_token_id: 1,
};
const parse = (change: Record<string, unknown> = {}): DecoderConfig => {
  return parseDecoderConfig("m/config.json", { ...JSON_CONFIG, ...change });
};
const CONFIG = parse();
const theta = ({ positions }: DecoderConfig) => (positions.kind === "rotary" ? positions.theta : null);

/** Every tensor of CONFIG, with values of its own. */
function tensors(): Map<string, TensorToWrite> {
  let seed = 0;
  return new Map(
    sourceTensors(weightSources(CONFIG)).map(({ name, shape }) => {
      const size = shape.reduce((a, b) => a * b, 1);
      const data = Float32Array.from({ length: size }, () => Math.sin(seed++));
      return [name, { name, dtype: "F32" as StoredType, shape, data }];
    }),
  );
}

async function writeSingle(change: (all: Map<string, TensorToWrite>) => void = () => {}): Promise<string> {
  const path = directory();
  const all = tensors();
  change(all);
  await writeSafetensors(join(path, "model.safetensors"), all.values(), { format: "pt" });
  return path;
}

const Q = "model.layers.0.self_attn.q_proj.weight";

t("config: the end-of-sequence token, of several the first, or none", () => {
  assert.is(parse({ eos_token_id: 4 }).endId, 4);
  assert.is(parse({ eos_token_id: [3, 2] }).endId, 3);
  for (const none of [undefined, null, []]) assert.not("endId" in parse({ eos_token_id: none }));
});

t("config: fields, defaults and Hugging Face's alternatives", () => {
  const rotary = { kind: "rotary", layout: "half", dimensions: 4, scaling: null };
  const figure = {
    architecture: "LlamaForCausalLM",
    positionLimit: "max_position_embeddings",
    queryKeyNorm: false,
    mlp: "swiglu",
    biases: "none",
    linear: "out-in",
  };
  assert.equal(CONFIG, {
    ...figure,
    hiddenSize: 8,
    layers: 2,
    heads: 2,
    keyValueHeads: 1,
    headSize: 4,
    intermediateSize: 6,
    vocabularySize: 5,
    maxPositions: 16,
    norm: { kind: "rms", epsilon: 1e-5 },
    positions: { ...rotary, theta: 500 },
  });
  const { architectures, hidden_size, intermediate_size, num_hidden_layers, num_attention_heads } =
    JSON_CONFIG;
  const least = { architectures, hidden_size, intermediate_size, num_hidden_layers, num_attention_heads };
  assert.equal(parseDecoderConfig("x", least), {
    ...figure,
    hiddenSize: 8,
    layers: 2,
    heads: 2,
    keyValueHeads: 2,
    headSize: 4,
    intermediateSize: 6,
    vocabularySize: 32000,
    maxPositions: 2048,
    norm: { kind: "rms", epsilon: 1e-6 },
    positions: { ...rotary, theta: 10000 },
  });
  assert.is(parse({ head_dim: 6 }).headSize, 6);
  assert.is(
    theta(parse({ rope_scaling: null, attention_bias: false, mlp_bias: false, pretraining_tp: 1 })),
    500,
  );
  assert.is(theta(parse({ rope_parameters: { rope_type: "default", rope_theta: 7 } })), 7);
  assert.is(parse({ architectures: undefined }).layers, 2);
});

t("config: what is wrong or not supported is refused, naming file and field", async () => {
  const cases: [Record<string, unknown>, RegExp][] = [
    [
      { architectures: ["PhiForCausalLM"] },
      /field architectures: architecture PhiForCausalLM is not supported, expected one of LlamaForCausalLM/,
    ],
    [
      { architectures: undefined, model_type: "phi" },
      /field architectures: model_type "phi" is not supported/,
    ],
    [{ architectures: "Llama" }, /field architectures: expected a list/],
    [
      { rope_scaling: { type: "linear", factor: 2 } },
      /field rope_scaling: expected null, or a rope_type of .*found \{"type":"linear"/,
    ],
    [{ rope_scaling: { rope_type: "llama3" } }, /field rope_scaling\.low_freq_factor: expected a positive/],
    [{ rope_scaling: { factor: 2 } }, /field rope_scaling: expected null, or a rope_type/],
    [{ rope_scaling: 3 }, /field rope_scaling: expected an object, or null, found 3/],
    [{ rope_parameters: { rope_type: "yarn" } }, /field rope_parameters/],
    [
      { rope_parameters: { rope_type: "default", rope_theta: -1 } },
      /field rope_parameters\.rope_theta: expected a positive number, found -1/,
    ],
    [{ partial_rotary_factor: 0.5 }, /field partial_rotary_factor/],
    [{ hidden_act: "gelu" }, /field hidden_act: expected "silu".*found "gelu"/],
    [{ attention_bias: true }, /field attention_bias: expected false/],
    [{ mlp_bias: true }, /field mlp_bias: expected false/],
    [{ quantization_config: { bits: 4 } }, /field quantization_config/],
    [{ hidden_size: undefined }, /field hidden_size: expected a whole number of at least 1, it is missing/],
    [{ hidden_size: "8" }, /field hidden_size: .*found "8"/],
    [{ hidden_size: 9 }, /field hidden_size: expected a multiple of num_attention_heads \(2\)/],
    [{ hidden_size: 6 }, /field hidden_size: expected an even number of dimensions a head/],
    [{ head_dim: 3 }, /field head_dim: expected an even number/],
    [{ num_hidden_layers: 0 }, /field num_hidden_layers/],
    [{ num_attention_heads: 2.5 }, /field num_attention_heads/],
    [
      { num_key_value_heads: 3 },
      /field num_key_value_heads: expected a divisor of the 2 attention heads, found 3/,
    ],
    [{ intermediate_size: -6 }, /field intermediate_size/],
    [{ vocab_size: 0 }, /field vocab_size/],
    [{ rms_norm_eps: 0 }, /field rms_norm_eps: expected a positive number, found 0/],
    [{ rope_theta: "10000" }, /field rope_theta/],
    [{ eos_token_id: 5 }, /field eos_token_id: expected null, an id below vocab_size \(5\), or a list/],
    [{ eos_token_id: [2.5] }, /field eos_token_id/],
    [{ max_position_embeddings: Number.POSITIVE_INFINITY }, /field max_position_embeddings/],
  ];
  for (const [change, pattern] of cases) {
    const message = await refusal(() => parse(change));
    assert.match(message, /^m\/config\.json: /);
    assert.match(message, pattern);
  }
  const path = directory();
  assert.match(await refusal(() => readDecoderConfig(path)), /cannot read .*config\.json: no such file/);
  writeFileSync(join(path, "config.json"), "{");
  assert.match(await refusal(() => readDecoderConfig(path)), /config\.json: not valid JSON/);
  writeFileSync(join(path, "config.json"), "3");
  assert.match(await refusal(() => readDecoderConfig(path)), /config\.json: expected a JSON object/);
});

t("single file: names, shapes, values; rotary buffers are left out", async () => {
  const path = await writeSingle((all) => {
    const name = "model.layers.0.self_attn.rotary_emb.inv_freq";
    all.set(name, { name, dtype: "F32", shape: [2], data: new Float32Array(2) });
  });
  await using checkpoint = (await openDecoderCheckpoint(path, CONFIG)).checkpoint;
  assert.equal([...checkpoint.names].sort(), [...tensors().keys()].sort());
  assert.equal(checkpoint.info(Q).shape, [8, 8]);
  assert.is(checkpoint.info(Q).bytes, 256);
  for (const [name, { data }] of tensors())
    assert.equal(await checkpoint.float32(name), data as Float32Array);
  assert.match(await refusal(() => checkpoint.info("nothing")), /has no tensor nothing/);
});

/** The tensors in two shards with their index. */
async function writeShards(): Promise<string> {
  const path = directory();
  const all = [...tensors().values()];
  const shards = {
    "model-00001-of-00002.safetensors": all.slice(0, 7),
    "model-00002-of-00002.safetensors": all.slice(7),
  };
  const map: Record<string, string> = {};
  for (const [shard, part] of Object.entries(shards)) {
    await writeSafetensors(join(path, shard), part);
    for (const { name } of part) map[name] = shard;
  }
  writeFileSync(
    join(path, "model.safetensors.index.json"),
    JSON.stringify({ metadata: {}, weight_map: map }),
  );
  return path;
}

t("shards: the same tensors; missing, damaged and disagreeing files are named", async () => {
  const path = await writeShards();
  await using checkpoint = (await openDecoderCheckpoint(path, CONFIG)).checkpoint;
  for (const [name, { data }] of tensors())
    assert.equal(await checkpoint.float32(name), data as Float32Array);

  const second = "model-00002-of-00002.safetensors";
  const missing = await writeShards();
  rmSync(join(missing, second));
  assert.match(
    await refusal(() => openCheckpoint(missing)),
    /00002-of-00002\.safetensors is missing: .* finish the download/,
  );

  const cut = await writeShards();
  truncateSync(join(cut, second), 100);
  assert.match(await refusal(() => openCheckpoint(cut)), /00002-of-00002\.safetensors: .*truncated/);

  const swapped = await writeShards();
  copyFileSync(join(swapped, "model-00001-of-00002.safetensors"), join(swapped, second));
  assert.match(
    await refusal(() => openCheckpoint(swapped)),
    /00002-of-00002\.safetensors: no tensor model\.\S+, though/,
  );

  const index = join(directory(), "model.safetensors.index.json");
  const read = async (content: unknown) => {
    writeFileSync(index, typeof content === "string" ? content : JSON.stringify(content));
    return refusal(() => openCheckpoint(join(index, "..")));
  };
  assert.match(await read("x"), /index\.json: not valid JSON/);
  assert.match(await read({}), /index\.json: field weight_map: expected an object/);
  assert.match(await read({ weight_map: {} }), /field weight_map/);
  assert.match(
    await read({ weight_map: { a: "../other.safetensors" } }),
    /tensor a: expected the name of a \.safetensors file/,
  );
  assert.match(await read({ weight_map: { a: 3 } }), /tensor a: expected the name/);
});

t("pytorch_model.bin, whole or in shards, is the same checkpoint; safetensors come first", async () => {
  const all = [...tensors().values()];
  const single = directory();
  await writeTorchBin(join(single, "pytorch_model.bin"), all);
  const sharded = directory();
  const map: Record<string, string> = {};
  for (const [i, part] of [all.slice(0, 7), all.slice(7)].entries()) {
    const shard = `pytorch_model-0000${i + 1}-of-00002.bin`;
    await writeTorchBin(join(sharded, shard), part);
    for (const { name } of part) map[name] = shard;
  }
  const index = join(sharded, "pytorch_model.bin.index.json");
  writeFileSync(index, JSON.stringify({ metadata: {}, weight_map: map }));
  for (const path of [single, sharded]) {
    await using checkpoint = (await openDecoderCheckpoint(path, CONFIG)).checkpoint;
    assert.equal([...checkpoint.names].sort(), [...tensors().keys()].sort());
    for (const [name, { data }] of tensors())
      assert.equal(await checkpoint.float32(name), data as Float32Array);
  }

  writeFileSync(join(single, "model.safetensors"), "");
  assert.match(await refusal(() => openCheckpoint(single)), /model\.safetensors: 0 bytes, too short/);
  writeFileSync(index, JSON.stringify({ weight_map: { ...map, [Q]: "model.safetensors" } }));
  assert.match(
    await refusal(() => openCheckpoint(sharded)),
    /q_proj\.weight: expected the name of a \.bin file/,
  );
  writeFileSync(index, JSON.stringify({ weight_map: { ...map, x: "pytorch_model-00002-of-00002.bin" } }));
  assert.match(await refusal(() => openCheckpoint(sharded)), /00002-of-00002\.bin: no tensor x, though/);
});

t("every architecture loads from .bin files, ChatGLM2 from seven as published", async () => {
  for (const model of [
    "gpt2-tiny",
    "llama-tiny",
    "llama3-tiny",
    "chatglm2-tiny",
    "mistral-tiny",
    "qwen3-tiny",
  ]) {
    const source = repositoryPath(`test/reference/dumps/${model}`);
    const config = await readDecoderConfig(source);
    const { tensors } = await readSafetensors(join(source, "model.safetensors"));
    const all = [...tensors].map(([name, tensor]) => ({ name, ...tensor }));
    const shards = model === "chatglm2-tiny" ? 7 : 1;
    const path = directory();
    const map: Record<string, string> = {};
    for (let i = 0; i < shards; i++) {
      const shard = shards === 1 ? "pytorch_model.bin" : `pytorch_model-0000${i + 1}-of-0000${shards}.bin`;
      const part = all.filter((_, j) => j % shards === i);
      await writeTorchBin(join(path, shard), part);
      for (const { name } of part) map[name] = shard;
    }
    const index = join(path, "pytorch_model.bin.index.json");
    if (shards > 1) writeFileSync(index, JSON.stringify({ metadata: {}, weight_map: map }));
    const bin = await openDecoderCheckpoint(path, config);
    await using found = bin.checkpoint;
    await using expected = (await openDecoderCheckpoint(source, config)).checkpoint;
    const names = sourceTensors(bin.sources).map(({ name }) => name);
    assert.ok(names.length > 10);
    for (const name of names) {
      assert.is(found.info(name).path, join(path, shards > 1 ? map[name] : "pytorch_model.bin"));
      const pieces = streamWeights(expected, name, "f16", { maxBytes: 512 });
      for await (const piece of streamWeights(found, name, "f16", { maxBytes: 512 }))
        assert.equal(piece, (await pieces.next()).value, name);
      assert.ok((await pieces.next()).done);
    }
  }
});

t("no weights", async () => {
  assert.match(
    await refusal(() => openCheckpoint(directory())),
    /: no model\.safetensors or model\.safetensors\.index\.json, nor pytorch_model\.bin or .*; download/,
  );
});

t("tensors that do not fit the config are named, with what was expected and found", async () => {
  const open = async (change: (all: Map<string, TensorToWrite>) => void) => {
    const path = await writeSingle(change);
    const message = await refusal(() => openDecoderCheckpoint(path, CONFIG));
    assert.match(message, path);
    return message;
  };
  assert.match(
    await open((all) => all.delete(Q)),
    /tensor model\.layers\.0\.self_attn\.q_proj\.weight that config\.json/,
  );
  assert.match(
    await open((all) => {
      all.delete(Q);
      all.delete("model.norm.weight");
    }),
    /q_proj\.weight and 1 more/,
  );
  const replace = (name: string, dtype: StoredType, shape: number[], bytes: number) => {
    return (all: Map<string, TensorToWrite>) =>
      void all.set(name, { name, dtype, shape, data: new Uint8Array(bytes) });
  };
  assert.match(
    await open(replace(Q, "F32", [8, 4], 128)),
    /tensor model\.layers\.0\.self_attn\.q_proj\.weight has shape \[8, 4\], expected \[8, 8\] from config\.json/,
  );
  assert.match(await open(replace(Q, "F32", [64], 256)), /has shape \[64\], expected \[8, 8\]/);
  assert.match(await open(replace(Q, "I32", [8, 8], 256)), /q_proj\.weight is I32, expected F32, F16, BF16/);
  assert.match(
    await open(replace("lm_head.weight", "F32", [6, 8], 192)),
    /tensor lm_head\.weight has shape \[6, 8\], expected \[5, 8\]/,
  );
  assert.match(await open(replace("model.layers.2.x", "F32", [1], 4)), /lies beyond the 2 layers/);
  assert.match(
    await open(replace("model.layers.1.self_attn.q_proj.bias", "F32", [8], 32)),
    /q_proj\.bias is not part of a LlamaForCausalLM .* would be left out/,
  );
});

t("weights stream in bounded pieces, as f32 and as packed f16", async () => {
  const size = 5 * 8;
  const halves = Uint16Array.from({ length: size }, (_, i) => 0x3000 + 37 * i);
  const bfloats = Uint16Array.from({ length: size }, (_, i) => 0x3e00 + 5 * i);
  const stored: [StoredType, ArrayBufferView, Float32Array][] = [
    ["F16", halves, halvesToFloats(halves)],
    ["BF16", bfloats, bfloatsToFloats(bfloats)],
    ["F32", halvesToFloats(halves), halvesToFloats(halves)],
  ];
  const name = "model.embed_tokens.weight";
  for (const [dtype, data, expected] of stored) {
    const path = await writeSingle((all) => all.set(name, { name, dtype, shape: [5, 8], data }));
    await using checkpoint = (await openDecoderCheckpoint(path, CONFIG)).checkpoint;
    for (const maxBytes of [16, 50, 1000]) {
      const f32: number[] = [];
      for await (const { first, elements, words } of streamWeights(checkpoint, name, "f32", { maxBytes })) {
        assert.is(first, f32.length);
        assert.is(first % 2, 0);
        assert.ok(elements === words.length && elements * (dtype === "F32" ? 4 : 2) <= maxBytes);
        f32.push(...words);
      }
      assert.equal(f32, [...expected]);
      const f16: number[] = [];
      for await (const { first, words } of streamWeights(checkpoint, name, "f16", { maxBytes })) {
        assert.is(first, 2 * (f16.length / 2));
        const pairs = new Uint16Array(words.buffer, words.byteOffset, words.length * 2);
        f16.push(...halvesToFloats(pairs));
      }
      // Every value here is exact in f16.
      assert.equal(f16, [...expected], dtype);
    }
  }
});

t("weights stream as quantised rows in pieces of whole rows, the same however they are cut", async () => {
  const [rows, width] = [5, 8];
  const halves = Uint16Array.from({ length: rows * width }, (_, i) => 0x3000 + 37 * i);
  const bfloats = Uint16Array.from({ length: rows * width }, (_, i) => 0x3e00 + 5 * i);
  const stored: [StoredType, ArrayBufferView, Float32Array][] = [
    ["F16", halves, halvesToFloats(halves)],
    ["BF16", bfloats, bfloatsToFloats(bfloats)],
    ["F32", halvesToFloats(halves), halvesToFloats(halves)],
  ];
  const name = "model.embed_tokens.weight";
  for (const [dtype, data, values] of stored) {
    const path = await writeSingle((all) => all.set(name, { name, dtype, shape: [rows, width], data }));
    await using checkpoint = (await openDecoderCheckpoint(path, CONFIG)).checkpoint;
    for (const storage of ["int8", "int4"] as const) {
      const expected = quantizeRows(values, width, storage).words;
      // Less than a row, a row and a part, all.
      for (const maxBytes of [3, 50, 1000]) {
        const words: number[] = [];
        let elements = 0;
        for await (const piece of streamWeights(checkpoint, name, storage, { maxBytes })) {
          assert.is(piece.byte, 4 * words.length);
          assert.is(piece.first, elements);
          assert.is(piece.elements % width, 0);
          assert.ok(piece.elements <= Math.max(width, maxBytes / (dtype === "F32" ? 4 : 2)));
          words.push(...piece.words);
          elements += piece.elements;
        }
        assert.is(elements, rows * width);
        assert.equal(words, [...expected], `${dtype}, ${storage}, ${maxBytes}`);
      }
    }
  }
});

t("a matrix stored [in, out] streams as quantised rows of inputs, whatever fits at once", async () => {
  const [inputs, outputs] = [70, 9];
  const values = Float32Array.from({ length: inputs * outputs }, (_, i) => Math.sin(i));
  const path = directory();
  const write = (data: Float32Array) =>
    writeSafetensors(join(path, "model.safetensors"), [
      { name: "x", dtype: "F32", shape: [inputs, outputs], data },
    ]);
  await write(values);
  const rows = values.map((_, i) => values[(i % inputs) * outputs + Math.floor(i / inputs)]);
  const expected = quantizeRows(rows, inputs, "int4").words;
  {
    await using checkpoint = await openCheckpoint(path);
    // Less than a column, two columns, all but one, all.
    for (const maxBytes of [7, 600, 2300, 10_000]) {
      const words: number[] = [];
      for await (const piece of streamWeights(checkpoint, "x", "int4", { maxBytes, transposed: true })) {
        assert.is(piece.byte, 4 * words.length);
        words.push(...piece.words);
      }
      assert.equal(words, [...expected], `${maxBytes}`);
    }
  }
  // Errors name the element as the file counts them.
  for (const [value, message] of [
    [7e4, /tensor x, element 375: 70000 is beyond/],
    [Number.NaN, /tensor x, element 375 is NaN/],
  ] as const) {
    await write(values.slice().fill(value, 375, 376));
    await using checkpoint = await openCheckpoint(path);
    const read = async () => {
      for await (const _ of streamWeights(checkpoint, "x", "int4", { maxBytes: 600, transposed: true }));
    };
    assert.match(await refusal(read), message);
  }
});

t("an odd number of elements packs with a zero", async () => {
  const path = directory();
  const data = Float32Array.of(1, -2, 0.5);
  await writeSafetensors(join(path, "model.safetensors"), [{ name: "x", dtype: "F32", shape: [3], data }]);
  await using checkpoint = await openCheckpoint(path);
  const pieces = [];
  for await (const piece of streamWeights(checkpoint, "x", "f16")) pieces.push(piece);
  assert.is(pieces.length, 1);
  assert.is(pieces[0].elements, 3);
  assert.equal([...pieces[0].words], [0xc0003c00, 0x3800]);
});

t("NaN, infinite and too large weights are refused, naming tensor and element", async () => {
  const read = async (dtype: StoredType, data: ArrayBufferView, storage: WeightStorage) => {
    const path = await writeSingle((all) => all.set(Q, { name: Q, dtype, shape: [8, 8], data }));
    await using checkpoint = (await openDecoderCheckpoint(path, CONFIG)).checkpoint;
    const message = await refusal(async () => {
      // Pieces of 8 (f32) or 16 (16-bit) elements: the index counts from the tensor's start, not the piece's.
      for await (const _ of streamWeights(checkpoint, Q, storage, { maxBytes: 32 }));
    });
    assert.match(message, join(path, "model.safetensors"));
    return message;
  };
  const floats = (value: number) => new Float32Array(64).fill(1, 0, 64).fill(value, 45, 46);
  const patterns = (value: number) => new Uint16Array(64).fill(0x3c00).fill(value, 45, 46);
  const nan =
    /tensor model\.layers\.0\.self_attn\.q_proj\.weight, element 45 is NaN: the checkpoint is damaged/;
  for (const storage of WEIGHT_STORAGES) {
    assert.match(await read("F32", floats(Number.NaN), storage), nan);
    assert.match(await read("F32", floats(-Infinity), storage), /element 45 is infinite/);
    assert.match(await read("F16", patterns(0x7e01), storage), nan);
    assert.match(await read("F16", patterns(0xfc00), storage), /element 45 is infinite/);
    assert.match(await read("BF16", patterns(0x7fc0), storage), nan);
  }
  assert.match(
    await read("F32", floats(7e4), "f16"),
    /q_proj\.weight, element 45: 70000 is beyond the range of f16 .*f32 weights/,
  );
  for (const storage of ["f16", "int8", "int4"] as const) {
    const message = await read("BF16", patterns(0x4780), storage);
    assert.match(message, /q_proj\.weight, element 45: 65536 is beyond the range of f16/);
  }
});

t("the reference checkpoints and stories260K open", async () => {
  const paths = ["llama-tiny", "llama-tiny-sharded"].map((name) =>
    repositoryPath(`test/reference/dumps/${name}`),
  );
  const stories = sharedPath("weights/stories260K");
  for (const path of [...paths, ...(stories ? [stories] : [])]) {
    const config = await readDecoderConfig(path);
    const opened = await openDecoderCheckpoint(path, config);
    await using checkpoint = opened.checkpoint;
    for (const { name } of sourceTensors(opened.sources))
      for await (const _ of streamWeights(checkpoint, name, "f16"));
  }
});

t("backbones are found by name, in the repository or the Hugging Face cache, or by directory", async () => {
  const root = directory();
  const home = directory();
  const env: Record<string, string> = {};
  const locate = (name: string) => locateBackbone(name, { root, home, env });
  const config = (path: string) => {
    mkdirSync(path, { recursive: true });
    writeFileSync(join(path, "config.json"), "{}");
    return path;
  };
  assert.match(
    await refusal(() => locate("embedded")),
    /weights\/shop-llama: the embedded backbone is missing/,
  );
  const message = await refusal(() => locate("llama2"));
  const command =
    'huggingface-cli download meta-llama/Llama-2-7b-hf --include "*.json" "*.safetensors" "*.txt" tokenizer.model';
  assert.ok(message.includes(`"${command}"`), message);
  assert.ok(message.includes(`"${command} --local-dir ${join(root, "weights/llama2")}"`), message);
  assert.ok(message.includes(join(home, ".cache/huggingface/hub")), message);

  const cache = (hub: string, commit: string) => {
    const model = join(hub, "models--meta-llama--Llama-2-7b-hf");
    mkdirSync(join(model, "refs"), { recursive: true });
    writeFileSync(join(model, "refs", "main"), commit);
    config(join(model, "snapshots", "another"));
    return config(join(model, "snapshots", commit));
  };
  const first = cache(join(home, ".cache/huggingface/hub"), "c1");
  assert.is(locate("llama2"), first);
  env.HF_HOME = join(home, "hf");
  assert.match(await refusal(() => locate("llama2")), join(home, "hf", "hub"));
  const second = cache(join(home, "hf", "hub"), "c2");
  assert.is(locate("llama2"), second);
  env.HUGGINGFACE_HUB_CACHE = "~/direct";
  const third = cache(join(home, "direct"), "c3");
  assert.is(locate("llama2"), third);
  rmSync(join(home, "direct", "models--meta-llama--Llama-2-7b-hf", "refs"), { recursive: true });
  assert.match(await refusal(() => locate("llama2")), "neither", "two snapshots and no refs/main: no guess");

  assert.is(config(join(root, "weights", "llama2")), locate("llama2"), "the repository's own comes first");
  assert.is(config(join(root, "weights", "shop-llama")), locate("embedded"));
  assert.is(locate(second), second);
  assert.match(
    await refusal(() => locate("lama2")),
    /backbone lama2: no such directory; expected one of embedded, gpt2, .*, llama2, .*, or a Hugging Face/,
  );
  assert.match(await refusal(() => locate(join(second, "config.json"))), /is a file/);
  assert.match(await refusal(() => locate(home)), /no config\.json in it/);
  assert.match(await refusal(() => locate("toString")), /no such directory/);
});

t.run();
