/** Loading a decoder: what lies in GPU memory is what the host would have put there, piece by piece; and what fails. */
import { truncateSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { writeFileAtomic } from "../src/files/atomic.ts";
import { floatsToHalves } from "../src/files/half.ts";
import { type StoredType, type TensorToWrite, writeSafetensors } from "../src/files/safetensors.ts";
import { UserError } from "../src/files/user-error.ts";
import type { Gpu } from "../src/gpu/device.ts";
import { GpuLostError } from "../src/gpu/errors.ts";
import { Tensor } from "../src/gpu/tensor.ts";
import { openCheckpoint } from "../src/llm/checkpoint-index.ts";
import { parseDecoderConfig } from "../src/llm/config.ts";
import { everyWeight, sourceTensors, weightSources } from "../src/llm/decoder-weights.ts";
import { loadDecoder, placementOf } from "../src/llm/load.ts";
import { WeightLoader } from "../src/llm/weight-loader.ts";
import { streamWeights, WEIGHT_STORAGES, type WeightStorage } from "../src/llm/weight-stream.ts";
import { noise } from "./close.ts";
import { openTestGpu } from "./gpu.ts";
import { temporaryFolder } from "./temporary.ts";

const t = suite("loading weights");
const gpu = await openTestGpu();
/** Pieces are cut to what one binding holds: here many of a matrix. */
const cutting = await openTestGpu({ maxBindingBytes: 3000 });
t.after(() => {
  gpu.close();
  cutting.close();
});

// Rows of 40 (whole groups) and of 20 (none: the host quantises them), three parts stacked in one weight.
const JSON_CONFIG = {
  architectures: ["LlamaForCausalLM"],
  hidden_size: 40,
  intermediate_size: 20,
  num_hidden_layers: 2,
  num_attention_heads: 5,
  num_key_value_heads: 1,
  vocab_size: 93,
  max_position_embeddings: 16,
  rms_norm_eps: 1e-5,
};
const CONFIG = parseDecoderConfig("m/config.json", JSON_CONFIG);
const Q = "model.layers.1.self_attn.q_proj.weight";

/** A checkpoint's directory; `change` may spoil values. */
async function write(dtype: StoredType, change = (_: string, values: Float32Array<ArrayBuffer>) => values) {
  const directory = temporaryFolder();
  let seed = 1;
  const tensors = sourceTensors(weightSources(CONFIG)).map(({ name, shape }): TensorToWrite => {
    const values = change(
      name,
      noise(
        shape.reduce((a, b) => a * b, 1),
        seed++,
      ),
    );
    if (dtype === "F32") return { name, dtype, shape, data: values };
    const words = new Uint32Array(values.buffer);
    const bfloats = () => Uint16Array.from(words, (word) => word >>> 16);
    return { name, dtype, shape, data: dtype === "F16" ? floatsToHalves(values).halves : bfloats() };
  });
  await writeFileAtomic(join(directory, "config.json"), JSON.stringify(JSON_CONFIG));
  await writeSafetensors(join(directory, "model.safetensors"), tensors, {});
  return directory;
}

/** The words of a weight in GPU memory. */
async function wordsOf(device: Gpu, { buffer, offset, bytes, bufferId }: Tensor): Promise<number[]> {
  return Array.from(await device.read(new Tensor(buffer, offset, [bytes / 4], "u32", bufferId)));
}

/** The words of every weight as the host makes them. */
async function byHost(directory: string, storage: WeightStorage): Promise<number[][]> {
  await using checkpoint = await openCheckpoint(directory);
  const all: number[][] = [];
  for (const source of everyWeight(weightSources(CONFIG))) {
    const placed = placementOf(source, CONFIG, storage).storage;
    const words: number[] = [];
    for (const { name } of source.parts)
      for await (const piece of streamWeights(checkpoint, name, placed))
        words.push(...new Uint32Array(piece.words.buffer, piece.words.byteOffset, piece.words.length));
    all.push(words);
  }
  return all;
}

for (const dtype of ["F32", "F16", "BF16"] as const) {
  t(`${dtype} in every storage, in one piece and in many`, async () => {
    const directory = await write(dtype);
    for (const storage of WEIGHT_STORAGES) {
      const expected = await byHost(directory, storage);
      for (const device of [gpu, cutting]) {
        const bytes: number[] = [];
        const decoder = await loadDecoder(device, directory, {
          weights: storage,
          onProgress: (done, total) => bytes.push(done / total),
        });
        const weights = everyWeight<Tensor>(decoder.weights);
        for (const [i, weight] of weights.entries()) {
          assert.equal(await wordsOf(device, weight), expected[i], `${storage}, weight ${i}`);
        }
        decoder.release(device);
        assert.ok(Math.abs(bytes[bytes.length - 1] - 1) < 1e-9, "all of it was told");
        assert.ok(bytes.every((part, i) => i === 0 || part > bytes[i - 1]));
        if (device === cutting) assert.ok(bytes.length > weights.length + 20, "in pieces");
      }
    }
  });
}

/** The message of the error, which must leave nothing allocated. */
async function refusal(directory: string, weights: WeightStorage, device = gpu): Promise<string> {
  const before = device.buffers.persistentBytes;
  try {
    await loadDecoder(device, directory, { weights });
  } catch (error) {
    assert.instance(error, UserError);
    assert.is(device.buffers.persistentBytes, before, "something stays allocated");
    return (error as Error).message;
  }
  throw new Error("it was accepted");
}

t("a number that is refused is named, and nothing stays allocated", async () => {
  const spoil = (value: number) => (name: string, values: Float32Array<ArrayBuffer>) => {
    if (name === Q) values[1234] = value;
    return values;
  };
  for (const dtype of ["F32", "F16", "BF16"] as const) {
    const directory = await write(dtype, spoil(Number.NaN));
    for (const storage of WEIGHT_STORAGES) {
      for (const device of [gpu, cutting]) {
        const message = await refusal(directory, storage, device);
        assert.match(
          message,
          /model\.safetensors: tensor model\.layers\.1\.self_attn\.q_proj\.weight, element 1234 is NaN/,
        );
      }
    }
  }
  const large = await write("F32", spoil(7e4));
  assert.match(await refusal(large, "f16"), /element 1234: 70000 is beyond the range of f16/);
  assert.match(await refusal(large, "int4"), /element 1234: 70000 is beyond the range of f16/);
  (await loadDecoder(gpu, large, { weights: "f32" })).release(gpu);
});

t("a row wider than one binding is quantised by the host", async () => {
  const directory = await write("F32");
  const narrow = await openTestGpu({ maxBindingBytes: 400 });
  const expected = await byHost(directory, "int8");
  const decoder = await loadDecoder(narrow, directory, { weights: "int8" });
  for (const [i, weight] of everyWeight<Tensor>(decoder.weights).entries())
    assert.equal(await wordsOf(narrow, weight), expected[i]);
  narrow.close();
});

t("what fails on the way leaves nothing behind, and the GPU works on", async () => {
  const directory = await write("BF16");
  const uploads = new Set<GPUBuffer>();
  const { device } = cutting;
  const { createBuffer } = device;
  device.createBuffer = (descriptor) => {
    const buffer = createBuffer.call(device, descriptor);
    if (descriptor.label !== "upload") return buffer;
    uploads.add(buffer);
    const { destroy } = buffer;
    buffer.destroy = () => {
      uploads.delete(buffer);
      return destroy.call(buffer);
    };
    return buffer;
  };
  try {
    const before = cutting.buffers.persistentBytes;
    let pieces = 0;
    const onProgress = () => {
      if (++pieces === 20) throw new Error("the caller's");
    };
    let message = "";
    await loadDecoder(cutting, directory, { weights: "int8", onProgress }).catch((error) => {
      message = error.message;
    });
    assert.is(message, "the caller's");
    assert.is(cutting.buffers.persistentBytes, before);
    assert.is(uploads.size, 0);
    (await loadDecoder(cutting, directory, { weights: "int8" })).release(cutting);
    assert.is(uploads.size, 0);
  } finally {
    device.createBuffer = createBuffer;
  }
});

t("a GPU that is closed or lost while it loads is named", async () => {
  const directory = await write("F16");
  for (const [end, expected] of [
    [(closing: Gpu) => closing.close(), /^the GPU was closed$/],
    [(losing: Gpu) => losing.device.destroy(), /^the GPU was lost/],
  ] as const) {
    for (const at of [1, 30]) {
      const other = await openTestGpu({ maxBindingBytes: 3000 });
      let pieces = 0;
      const onProgress = () => {
        if (++pieces === at) end(other);
      };
      const error = await loadDecoder(other, directory, { weights: "f32", onProgress }).then(
        () => null,
        (error) => error,
      );
      assert.instance(error, GpuLostError);
      assert.match(error.message, expected);
      other.close();
    }
  }
});

t("a file that becomes shorter while it is read is named", async () => {
  const directory = await write("F16");
  const path = join(directory, "model.safetensors");
  await using checkpoint = await openCheckpoint(directory);
  const { shape } = checkpoint.info(Q);
  // In the third of its pieces.
  truncateSync(path, checkpoint.info(Q).start + 2900);
  const target = cutting.parameter(shape, "f16");
  const before = cutting.buffers.persistentBytes;
  const job = { name: Q, shape, storage: "f16" as const, transposed: false, target, byte: 0 };
  try {
    await new WeightLoader(cutting, checkpoint, () => {}).load([job]);
    assert.unreachable();
  } catch (error) {
    assert.instance(error, UserError);
    assert.match(
      (error as Error).message,
      /model\.safetensors: it ends at byte \d+, while being read; the file is truncated/,
    );
  }
  assert.is(cutting.buffers.persistentBytes, before);
  cutting.release(target);
  (await loadDecoder(cutting, await write("F16"), { weights: "f16" })).release(cutting);
});

t.run();
