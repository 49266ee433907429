/** Reads reference dumps, runs this project on their inputs and measures every output (the `compare` command). */

import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { UserError } from "../../files/user-error.ts";
import type { Gpu } from "../../gpu/device.ts";
import type { Decoder } from "../../llm/decoder.ts";
import { loadDecoder } from "../../llm/load.ts";
import type { WeightStorage } from "../../llm/weight-stream.ts";
import { Dump } from "./dump.ts";
import { exactError, type TensorError, tensorError } from "./error.ts";
import type { Context, Kind } from "./kind.ts";
import type { Outputs } from "./outputs.ts";
import { KINDS } from "./registry.ts";

/** One output of a dump, compared (or known and not compared: `skipped` says why). */
export type TensorReport =
  | ({ readonly name: string; readonly skipped?: undefined } & TensorError)
  | { readonly name: string; readonly skipped: string };

/** One dump, compared. */
export interface FileReport {
  readonly file: string;
  readonly kind: string;
  readonly tensors: readonly TensorReport[];
}

/** Compares dumps on one GPU; frozen models that several dumps name are loaded once. */
export class Comparison {
  private readonly context: Context;
  private readonly models = new Map<string, Promise<Decoder>>();

  /** `checkpoints`: where checkpoints that do not lie beside their dump are looked for, or null. */
  constructor(
    private readonly gpu: Gpu,
    weights: WeightStorage,
    private readonly checkpoints: string | null,
  ) {
    this.context = { gpu, weights, backbone: (dump) => this.backbone(dump) };
  }

  /**
   * Compares one file. Outputs that it lacks are not checked.
   *
   * @throws UserError naming the file and the tensor or param: not a dump, unknown kind, missing or misshapen input,
   * a tensor that the kind does not know.
   */
  async file(path: string): Promise<FileReport> {
    const dump = await Dump.read(path);
    const kind = Object.hasOwn(KINDS, dump.kind) ? KINDS[dump.kind] : undefined;
    if (!kind) {
      throw dump.error(
        `unknown kind ${JSON.stringify(dump.kind)}; known are ${Object.keys(KINDS).join(", ")}`,
      );
    }
    const outputs = await this.run(kind, dump);
    const tolerance = kind.tolerance(this.context.weights);
    const tensors: TensorReport[] = [];
    for (const name of dump.remaining()) {
      const skipped = outputs.reasonToSkip(name);
      if (skipped !== undefined) {
        tensors.push({ name, skipped });
        continue;
      }
      const output = outputs.get(name);
      if (!output) {
        throw dump.error(
          `tensor ${name} is neither an input nor an output of kind ${dump.kind} (docs/dumps.md)`,
        );
      }
      const expected = dump.expected(name, output.shape);
      if (output.values.length !== expected.length) {
        throw new Error(`${dump.kind}: ${name} has ${output.values.length} values, not ${expected.length}`);
      }
      const error = output.exact
        ? exactError(output.values, expected)
        : tensorError(output.values, expected, tolerance);
      tensors.push({ name, ...error });
    }
    if (tensors.length === 0) throw dump.error(`it holds no output of kind ${dump.kind}: nothing to compare`);
    return { file: path, kind: dump.kind, tensors };
  }

  /** Sizes that an op refuses (a head larger than its tiles, say) are a fact about the file: the error names it. */
  private async run(kind: Kind, dump: Dump): Promise<Outputs> {
    try {
      return await kind.run(this.context, dump);
    } catch (error) {
      if (error instanceof UserError || !(error instanceof Error)) throw error;
      throw new UserError(`${dump.path}: kind ${dump.kind} cannot be run: ${error.message}`, {
        cause: error,
      });
    }
  }

  private backbone(dump: Dump): Promise<Decoder> {
    const name = dump.text("checkpoint");
    const places = [dirname(dump.path), ...(this.checkpoints === null ? [] : [this.checkpoints])].map(
      (folder) => join(folder, name),
    );
    const directory = places.find((place) => existsSync(join(place, "config.json")));
    if (!directory) {
      throw new UserError(
        `${dump.path}: its checkpoint ${name} is not at ${places.join(" or ")}; give its parent folder with --checkpoints`,
      );
    }
    let model = this.models.get(directory);
    if (!model) {
      model = loadDecoder(this.gpu, directory, { weights: this.context.weights });
      this.models.set(directory, model);
    }
    return model;
  }

  /** Ends the models that were loaded. */
  async release(): Promise<void> {
    for (const model of this.models.values()) (await model.catch(() => null))?.release(this.gpu);
    this.models.clear();
  }
}

/** Whether every tensor that was compared is within its tolerance. */
export function passes(report: FileReport): boolean {
  return report.tensors.every((tensor) => tensor.skipped !== undefined || tensor.ok);
}
