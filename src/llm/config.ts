import { join } from "node:path";
import { readJsonObject } from "../files/json.ts";
import { UserError } from "../files/user-error.ts";
import { ARCHITECTURES, architectureOfClass } from "./architectures/table.ts";
import { ConfigFields } from "./config-fields.ts";
import type { DecoderConfig } from "./decoder-config.ts";

/**
 * Reads and checks `config.json` of a Hugging Face model directory. Fields that Hugging Face itself lets a config
 * leave out take Hugging Face's defaults.
 *
 * @throws UserError naming the file and the field: missing, of a wrong type or value, an architecture that is not in
 * the table, or a variant of one that this program does not run (scaled rotary embedding of another kind, biases,
 * quantised weights ...): running it anyway would give wrong numbers.
 */
export async function readDecoderConfig(directory: string): Promise<DecoderConfig> {
  const path = join(directory, "config.json");
  return parseDecoderConfig(path, await readJsonObject(path));
}

/** `readDecoderConfig` for JSON that has been read; `path` is for messages. */
export function parseDecoderConfig(path: string, json: Readonly<Record<string, unknown>>): DecoderConfig {
  const fields = new ConfigFields(path, json);
  const name = architectureName(fields);
  if (json.quantization_config != null) {
    fields.fail("quantization_config", "none (use a checkpoint of F32, F16 or BF16 weights)");
  }
  const decoder = architectureOfClass(name)!.decoder(fields);
  const endId = endOfSequence(fields, decoder.vocabularySize);
  return { architecture: name, ...decoder, ...(endId === null ? {} : { endId }) };
}

/** `eos_token_id`: an id, a list of ids (the first one counts), or none. */
function endOfSequence(fields: ConfigFields, vocabularySize: number): number | null {
  const value = fields.raw("eos_token_id");
  const id: unknown = Array.isArray(value) ? value[0] : value;
  if (id == null) return null;
  if (Number.isSafeInteger(id) && (id as number) >= 0 && (id as number) < vocabularySize) return id as number;
  return fields.fail(
    "eos_token_id",
    `null, an id below vocab_size (${vocabularySize}), or a list of such ids`,
  );
}

/** The class of the table that config.json names, in `architectures` or else by `model_type`. */
function architectureName(fields: ConfigFields): string {
  const architectures = fields.raw("architectures");
  const modelType = fields.raw("model_type");
  if (architectures !== undefined && !Array.isArray(architectures)) {
    fields.fail("architectures", "a list of names");
  }
  const names = (architectures as unknown[] | undefined) ?? [];
  const known = names.length
    ? names.find((name) => typeof name === "string" && architectureOfClass(name))
    : ARCHITECTURES.find((architecture) => architecture.modelType === modelType)?.classes[0];
  if (known !== undefined) return known as string;
  const found = names.length ? `architecture ${names.join(", ")}` : `model_type ${JSON.stringify(modelType)}`;
  const all = ARCHITECTURES.map(({ classes }) => classes[0]).join(", ");
  throw new UserError(
    `${fields.path}: field architectures: ${found} is not supported, expected one of ${all}`,
  );
}
