/**
 * Everything that a run computes with, put together from its parts: dataset, frozen recommender, frozen backbone,
 * texts and Laser. Training, evaluation and recommendation all start here.
 */
import type { Dataset, Item } from "../data/dataset.ts";
import { UserError } from "../files/user-error.ts";
import type { Gpu } from "../gpu/device.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { addedTokens, endToken, Laser } from "../laser/laser.ts";
import { Texts } from "../laser/text.ts";
import type { DecoderConfig } from "../llm/decoder-config.ts";
import type { Tokenizer } from "../llm/tokenizer.ts";
import type { Recommender } from "../recommenders/recommender.ts";
import type { Backbone } from "./backbone.ts";
import type { Config } from "./config.ts";

export interface SessionParts {
  readonly gpu: Gpu;
  readonly config: Config;
  readonly dataset: Dataset;
  readonly recommender: Recommender;
  readonly backbone: Backbone;
  /** Items that a run was given after its training; they follow the dataset's in every index. */
  readonly added?: readonly Item[];
}

export interface Session extends SessionParts {
  /** The dataset's items, then the added ones. */
  readonly items: readonly Item[];
  readonly texts: Texts;
  readonly laser: Laser;
  /** Ends Laser's own parameters; the recommender and the backbone may serve another session. */
  release(): void;
}

/** The texts of a run. Throws UserError when a text cannot be made for this backbone, or read by the recommender. */
export function runTexts(
  items: readonly Item[],
  tokenizer: Tokenizer,
  backbone: Pick<DecoderConfig, "architecture" | "maxPositions" | "endId">,
  recommenderPositions: number,
  config: Config,
): Texts {
  const { template, maxHistory } = config;
  if (config.pooling === "eos") endToken(backbone);
  const maxTokens = backbone.maxPositions - addedTokens(config);
  if (maxTokens < 1) {
    throw new UserError(
      `queryTokens ${config.queryTokens} and suffixTokens ${config.suffixTokens} leave no room for text in the backbone's ${backbone.maxPositions} positions; use fewer`,
    );
  }
  if (config.prefix === "mformer" && maxHistory > recommenderPositions) {
    throw new UserError(
      `maxHistory ${maxHistory} is more than the recommender's ${recommenderPositions} positions; use fewer, or laser pretrain --max-length ${maxHistory} and laser train --recommender`,
    );
  }
  return new Texts(items, tokenizer, { template, maxHistory, maxTokens });
}

/** Puts the parts together. Parameters are drawn from the config's seed; load a run's over them to use it. */
export function openSession(parts: SessionParts): Session {
  const { gpu, config, dataset, recommender, backbone, added = [] } = parts;
  const items = added.length ? [...dataset.items, ...added] : dataset.items;
  const { tokenizer, decoder } = backbone;
  const texts = runTexts(items, tokenizer, decoder.config, recommender.maxLength, config);
  const collaborative = (step: Step, histories: readonly (readonly number[])[]): Tensor =>
    recommender.hiddenStates(step, histories);
  const laser = new Laser(config, decoder, collaborative, recommender.width);
  laser.parameters.build(gpu, config.seed);
  return { ...parts, items, texts, laser, release: () => laser.release(gpu) };
}
