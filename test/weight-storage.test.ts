/**
 * The frozen decoder with its weights stored as f32, f16, int8 and int4: how far the hidden state at the suffix turns, that
 * its gradient is still that of its own forward pass, and that the memory account counts what is allocated.
 */
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { shopTexts } from "../src/data/shop.ts";
import { openSafetensors } from "../src/files/safetensors.ts";
import type { Step } from "../src/gpu/step.ts";
import type { Tensor } from "../src/gpu/tensor.ts";
import { readDecoderConfig } from "../src/llm/config.ts";
import type { Decoder } from "../src/llm/decoder.ts";
import { everyWeight } from "../src/llm/decoder-weights.ts";
import { decoderBytes, loadDecoder } from "../src/llm/load.ts";
import { type PromptBatch, promptBatch } from "../src/llm/prompt.ts";
import { loadTokenizer } from "../src/llm/tokenizer.ts";
import { WEIGHT_STORAGES, type WeightStorage } from "../src/llm/weight-stream.ts";
import { gatherRows } from "../src/ops/embedding.ts";
import { noise } from "./close.ts";
import { openTestGpu } from "./gpu.ts";
import { repositoryPath, sharedPath } from "./shared.ts";
import { FINITE_DIFFERENCE, SUFFIX_COSINE } from "./tolerances.ts";

const t = suite("decoder weights in every storage");
const gpu = await openTestGpu();
t.after(() => gpu.close());

const SHOP_LLAMA = repositoryPath("weights/shop-llama");

/** Texts between virtual tokens: prefix [B L, d], suffix [s, d]. */
interface Prompts {
  readonly texts: readonly ArrayLike<number>[];
  readonly prefix: Float32Array<ArrayBuffer>;
  readonly suffix: Float32Array<ArrayBuffer>;
}

/** Descriptions and histories of the embedded shop, with virtual tokens of the size of real ones. */
async function shopPrompts(width: number): Promise<Prompts> {
  const tokenizer = await loadTokenizer(SHOP_LLAMA);
  const texts: Uint32Array[] = [];
  for (const text of shopTexts()) {
    texts.push(Uint32Array.from(tokenizer.encode(text)));
    if (texts.length === 12) break;
  }
  await using file = await openSafetensors(`${SHOP_LLAMA}/model.safetensors`);
  const embedding = await file.float32("model.embed_tokens.weight");
  const rms = Math.sqrt(embedding.reduce((sum, v) => sum + v * v, 0) / embedding.length);
  const virtual = (rows: number, seed: number) => noise(rows * width, seed, rms * Math.sqrt(3));
  return { texts, prefix: virtual(texts.length * 4, 1), suffix: virtual(1, 2) };
}

/** The prompts of the committed dump of stories260K. */
async function storiesPrompts(): Promise<Prompts> {
  await using file = await openSafetensors(
    repositoryPath("test/reference/dumps-published/backbone-stories260K.safetensors"),
  );
  const ids = new Int32Array((await file.read("ids")).buffer);
  const lengths = new Int32Array((await file.read("lengths")).buffer);
  let end = 0;
  const texts = Array.from(lengths, (length) => {
    end += length;
    return Uint32Array.from(ids.subarray(end - length, end));
  });
  const floats = async (name: string) => new Float32Array(await file.float32(name));
  return { texts, prefix: await floats("prefix"), suffix: await floats("suffix") };
}

/** Records a forward pass. */
function forward(step: Step, decoder: Decoder, { texts, prefix, suffix }: Prompts, keep: boolean) {
  const d = decoder.hiddenSize;
  const shape = { prefix: prefix.length / d / texts.length, sharedPrefix: false, suffix: suffix.length / d };
  const batch: PromptBatch = promptBatch(step, texts, shape);
  const tensor = (values: Float32Array<ArrayBuffer>): Tensor => step.upload(values, [values.length / d, d]);
  return { batch, ...decoder.forward(step, batch, tensor(prefix), tensor(suffix), keep) };
}

async function hiddenStates(decoder: Decoder, prompts: Prompts): Promise<Float32Array> {
  const step = gpu.step("hidden states");
  const read = step.readFloats(forward(step, decoder, prompts, false).hidden);
  await step.submit();
  return read;
}

/** The cosine of every row of a with the same row of b. */
function cosines(a: Float32Array, b: Float32Array, width: number): number[] {
  return Array.from({ length: a.length / width }, (_, row) => {
    let [ab, aa, bb] = [0, 0, 0];
    for (let i = row * width; i < (row + 1) * width; i++) {
      ab += a[i] * b[i];
      aa += a[i] * a[i];
      bb += b[i] * b[i];
    }
    return ab / Math.sqrt(aa * bb);
  });
}

async function checkCosines(name: string, directory: string, prompts: Prompts) {
  const hidden = new Map<WeightStorage, Float32Array>();
  let width = 0;
  for (const weights of WEIGHT_STORAGES) {
    const decoder = await loadDecoder(gpu, directory, { weights });
    width = decoder.hiddenSize;
    hidden.set(weights, await hiddenStates(decoder, prompts));
    decoder.release(gpu);
  }
  for (const weights of ["f32", "int8", "int4"] as const) {
    const found = cosines(hidden.get(weights)!, hidden.get("f16")!, width);
    const mean = found.reduce((a, b) => a + b) / found.length;
    const least = Math.min(...found);
    console.log(
      `${name}: suffix cosine of ${weights} against f16: mean ${mean.toFixed(5)}, least ${least.toFixed(5)} of ${found.length}`,
    );
    assert.ok(least >= SUFFIX_COSINE[weights], `${weights}: ${least}`);
    // A storage that is not what it says (f16 under another name) would pass the bound.
    assert.ok(weights === "f32" || least < 1 - 1e-6, `${weights} is not coarser than f16`);
  }
}

t("the suffix's hidden state on the embedded backbone", async () => {
  await checkCosines("shop-llama", SHOP_LLAMA, await shopPrompts(64));
});

const stories = sharedPath("weights/stories260K");
if (stories) {
  t("the suffix's hidden state on stories260K", async () => {
    await checkCosines("stories260K", stories, await storiesPrompts());
  });
}

for (const weights of WEIGHT_STORAGES) {
  t(`${weights}: the gradient at the suffix is the slope of the forward pass along it`, async () => {
    const decoder = await loadDecoder(gpu, SHOP_LLAMA, { weights });
    const all = await shopPrompts(decoder.hiddenSize);
    const prompts = { ...all, texts: all.texts.slice(0, 3), prefix: all.prefix.slice(0, 3 * 4 * 64) };
    const dHidden = noise(3 * decoder.hiddenSize, 5);
    const step = gpu.step("gradient");
    const { batch, hidden, saved } = forward(step, decoder, prompts, true);
    const dx = decoder.backward(step, saved!, step.upload(dHidden, hidden.shape));
    const read = step.readFloats(gatherRows(step, dx, batch.outputRows!));
    await step.submit();
    const gradient = new Float32Array(decoder.hiddenSize);
    (await read).forEach((value, i) => {
      gradient[i % gradient.length] += value;
    });
    const norm = Math.hypot(...gradient);
    const distance = 0.002 * Math.hypot(...prompts.suffix);
    const at = async (sign: number) => {
      const suffix = prompts.suffix.map((value, i) => value + (sign * distance * gradient[i]) / norm);
      const values = await hiddenStates(decoder, { ...prompts, suffix });
      return values.reduce((sum, value, i) => sum + value * dHidden[i], 0);
    };
    const slope = ((await at(1)) - (await at(-1))) / (2 * distance);
    assert.ok(Math.abs(slope - norm) < FINITE_DIFFERENCE * norm, `slope ${slope}, norm ${norm}`);
    decoder.release(gpu);
  });

  t(`${weights}: the account is what is allocated`, async () => {
    const before = gpu.buffers.persistentBytes;
    const decoder = await loadDecoder(gpu, SHOP_LLAMA, { weights });
    const allocated = gpu.buffers.persistentBytes - before;
    const account = decoderBytes(await readDecoderConfig(SHOP_LLAMA), weights);
    const tensors = everyWeight(decoder.weights);
    assert.is(
      tensors.reduce((sum, { bytes }) => sum + bytes, 0),
      account,
    );
    // Buffers are whole vectors of 16 bytes.
    assert.ok(allocated >= account && allocated < account + 16 * tensors.length, `${allocated}, ${account}`);
    decoder.release(gpu);
    assert.is(gpu.buffers.persistentBytes, before);
  });
}

t.run();
