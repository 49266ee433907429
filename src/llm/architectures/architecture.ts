import type { ConfigFields } from "../config-fields.ts";
import type { DecoderConfig } from "../decoder-config.ts";

/** One entry of the table of architectures: how its config.json and its checkpoint read. */
export interface Architecture {
  /** The class names that `architectures` of config.json may hold. */
  readonly classes: readonly string[];
  /** `model_type`, for a config.json without `architectures`. */
  readonly modelType: string;
  /**
   * The model's figure, from config.json.
   *
   * @throws UserError naming the field: missing, of a wrong type or value, or a variant that the decoder does not run.
   */
  decoder(fields: ConfigFields): Omit<DecoderConfig, "architecture">;
  readonly tensors: TensorNames;
}

/**
 * Where a checkpoint holds each weight, without the endings `.weight` and `.bias`. A list names tensors that are
 * stacked along their output axis; a single name may be stacked in the checkpoint already.
 */
export interface TensorNames {
  /** What every name may begin with; the first under which the checkpoint has the embedding counts. */
  readonly prefixes: readonly string[];
  readonly embedding: string;
  /** The table of learned positions. */
  readonly positions?: string;
  /** Layer n is `<layers>.n`; the following names lie in it. */
  readonly layers: string;
  readonly inputNorm: string;
  readonly qkv: readonly string[];
  readonly queryKeyNorm?: readonly [query: string, key: string];
  readonly output: string;
  readonly mlpNorm: string;
  /** gate | up, or up alone. */
  readonly up: readonly string[];
  readonly down: string;
  readonly finalNorm: string;
  /** Whole tensor names in a layer that hold no weights (mask buffers). */
  readonly ignored?: readonly string[];
  /** The head, which is never run: its shape [V, d] tells whether config and weights are of one model. */
  readonly head: string;
}
