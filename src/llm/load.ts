import { freemem } from "node:os";
import { UserError } from "../files/user-error.ts";
import type { Gpu } from "../gpu/device.ts";
import { BYTES, sizeOf, type Tensor } from "../gpu/tensor.ts";
import type { Checkpoint } from "./checkpoint-index.ts";
import { type LlamaConfig, readLlamaConfig } from "./config.ts";
import { Llama, type LlamaLayer } from "./llama.ts";
import { openLlamaCheckpoint } from "./llama-tensors.ts";
import { streamWeights, type WeightStorage } from "./weight-stream.ts";

export interface LoadOptions {
  /** Storage of the linear weights and the embedding; norms are always f32. */
  readonly weights: WeightStorage;
  /** Called with the bytes read so far of the checkpoint's total. */
  readonly onProgress?: (bytes: number, total: number) => void;
}

/** The tensors of one decoder layer as they lie in GPU memory: each a stack of checkpoint tensors. */
function layerPlan(config: LlamaConfig, index: number) {
  const { hiddenSize: d, heads, keyValueHeads, headSize, intermediateSize } = config;
  const name = (part: string) => `model.layers.${index}.${part}.weight`;
  return {
    inputNorm: { parts: [name("input_layernorm")], shape: [d], norm: true },
    qkv: {
      parts: ["q", "k", "v"].map((part) => name(`self_attn.${part}_proj`)),
      shape: [(heads + 2 * keyValueHeads) * headSize, d],
      norm: false,
    },
    output: { parts: [name("self_attn.o_proj")], shape: [d, heads * headSize], norm: false },
    postAttentionNorm: { parts: [name("post_attention_layernorm")], shape: [d], norm: true },
    gateUp: {
      parts: [name("mlp.gate_proj"), name("mlp.up_proj")],
      shape: [2 * intermediateSize, d],
      norm: false,
    },
    down: { parts: [name("mlp.down_proj")], shape: [d, intermediateSize], norm: false },
  } satisfies Record<keyof LlamaLayer, { parts: string[]; shape: number[]; norm: boolean }>;
}

/** Bytes of GPU memory that the frozen weights take. */
export function llamaBytes(config: LlamaConfig, storage: WeightStorage): number {
  const bytes = (shape: readonly number[], norm: boolean) => sizeOf(shape) * BYTES[norm ? "f32" : storage];
  let total = bytes([config.vocabularySize, config.hiddenSize], false) + bytes([config.hiddenSize], true);
  for (const { shape, norm } of Object.values(layerPlan(config, 0)))
    total += config.layers * bytes(shape, norm);
  return total;
}

/** Refuses a model that cannot fit before anything is read: a tensor past the largest buffer, or the host's memory. */
function checkFits(gpu: Gpu, directory: string, config: LlamaConfig, storage: WeightStorage): void {
  const most = gpu.device.limits.maxBufferSize;
  const embedding = config.vocabularySize * config.hiddenSize * BYTES[storage];
  const widest = Math.max(embedding, 2 * config.intermediateSize * config.hiddenSize * BYTES[storage]);
  if (widest > most) {
    throw new UserError(
      `${directory}: its largest tensor needs ${gib(widest)} in ${storage}, this adapter's buffers hold ${gib(most)}; use ${storage === "f32" ? "--weights f16" : "a smaller backbone"}`,
    );
  }
  const needed = llamaBytes(config, storage);
  if (gpu.software && needed > freemem()) {
    throw new UserError(
      `${directory}: its weights need ${gib(needed)} in ${storage}, this machine has ${gib(freemem())} free and the adapter (${gpu.adapterName}) computes in main memory; use ${storage === "f32" ? "--weights f16 or " : ""}a smaller backbone or a GPU`,
    );
  }
}

/** Bytes as GiB, for messages. */
function gib(bytes: number): string {
  return `${(bytes / 2 ** 30).toFixed(2)} GiB`;
}

/**
 * Loads a Hugging Face LlamaForCausalLM directory into GPU memory. Tensors stream in bounded pieces: host memory
 * stays small whatever the checkpoint's size. Throws UserError naming the file and tensor at fault; nothing stays
 * allocated then.
 */
export async function loadLlama(gpu: Gpu, directory: string, options: LoadOptions): Promise<Llama> {
  const config = await readLlamaConfig(directory);
  checkFits(gpu, directory, config, options.weights);
  await using checkpoint = await openLlamaCheckpoint(directory, config);
  const loader = new Loader(gpu, checkpoint, options);
  try {
    const embedding = await loader.load({
      parts: ["model.embed_tokens.weight"],
      shape: [config.vocabularySize, config.hiddenSize],
      norm: false,
    });
    const layers: LlamaLayer[] = [];
    for (let i = 0; i < config.layers; i++) {
      const plan = layerPlan(config, i);
      const layer: Partial<Record<keyof LlamaLayer, Tensor>> = {};
      for (const [part, stack] of Object.entries(plan))
        layer[part as keyof LlamaLayer] = await loader.load(stack);
      layers.push(layer as LlamaLayer);
    }
    const finalNorm = await loader.load({
      parts: ["model.norm.weight"],
      shape: [config.hiddenSize],
      norm: true,
    });
    return new Llama(config, { embedding, layers, finalNorm });
  } catch (error) {
    for (const tensor of loader.loaded) gpu.release(tensor);
    throw error;
  }
}

class Loader {
  readonly loaded: Tensor[] = [];
  private done = 0;
  private pending = 0;
  private readonly total: number;

  constructor(
    private readonly gpu: Gpu,
    private readonly checkpoint: Checkpoint,
    private readonly options: LoadOptions,
  ) {
    this.total = checkpoint.names.reduce((sum, name) => sum + checkpoint.info(name).bytes, 0);
  }

  /** One GPU tensor from checkpoint tensors stacked along the first axis. */
  async load(stack: { parts: readonly string[]; shape: readonly number[]; norm: boolean }): Promise<Tensor> {
    const storage = stack.norm ? "f32" : this.options.weights;
    const tensor = this.gpu.parameter(stack.shape, storage);
    this.loaded.push(tensor);
    let element = 0;
    for (const name of stack.parts) {
      for await (const piece of streamWeights(this.checkpoint, name, storage)) {
        const start = tensor.offset + (element + piece.first) * BYTES[storage];
        if (start % 4 !== 0)
          throw new UserError(`tensor ${name} has an odd number of elements; use --weights f32`);
        const words = piece.words as Float32Array<ArrayBuffer> | Uint32Array<ArrayBuffer>;
        this.gpu.device.queue.writeBuffer(tensor.buffer, start, words);
        this.done +=
          this.checkpoint.info(name).bytes * (piece.elements / sizeOf(this.checkpoint.info(name).shape));
        this.options.onProgress?.(this.done, this.total);
        // Let the queue drain now and then: writeBuffer stages its data in host memory until then.
        this.pending += words.byteLength;
        if (this.pending > 256 * 2 ** 20) {
          this.pending = 0;
          await this.gpu.flush();
        }
      }
      element += sizeOf(this.checkpoint.info(name).shape);
    }
    return tensor;
  }
}
