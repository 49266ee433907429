#!/usr/bin/env node
import { Command } from "commander";
import { packageVersion } from "../train/versions.ts";
import { registerAblations } from "./ablations.ts";
import { registerAddItems } from "./add-items.ts";
import { registerCompare } from "./compare.ts";
import { registerData } from "./data.ts";
import { registerDemo } from "./demo.ts";
import { registerDocs } from "./docs.ts";
import { registerEvaluate } from "./evaluate.ts";
import { registerPlan } from "./plan.ts";
import { registerPretrain } from "./pretrain.ts";
import { registerRecommend } from "./recommend.ts";
import { reportError } from "./report-error.ts";
import { registerTrain } from "./train.ts";

/** The `laser` command with all its subcommands. */
export function laserCommand(): Command {
  const program = new Command("laser")
    .description("Laser: sequential recommendation with a frozen language model, on WebGPU")
    .version(packageVersion())
    .showSuggestionAfterError(true)
    .configureOutput({
      // Commander puts its suggestion on a second line; every error here is one line.
      outputError: (text, write) => write(`${text.trim().replace(/\s*\n\s*/g, " ")}\n`),
    })
    .addHelpText(
      "after",
      `
Examples:
  laser demo                                   the whole method on an embedded shop, in minutes
  laser data raw/ --out runs/data/mine         prepare interactions and item texts
  laser pretrain --data runs/data/mine         train the ID recommender underneath
  laser plan --backbone llama2                 the GPU memory that training needs, without any weights
  laser train --data runs/data/mine --backbone llama2
  laser evaluate runs/mine-llama2-1            against popularity, Markov-1 and BERT4Rec
  laser recommend runs/mine-llama2-1 --user A1 --top 10

Environment: LASER_ADAPTER (as --adapter), LASER_PROFILE=1 (time of every kernel), LASER_DEBUG=1 (stacks of errors).`,
    );
  const registrations = [
    registerDemo,
    registerData,
    registerPretrain,
    registerPlan,
    registerTrain,
    registerEvaluate,
    registerRecommend,
    registerAddItems,
    registerAblations,
    registerCompare,
    registerDocs,
  ];
  for (const register of registrations) register(program);
  return program;
}

// A reader that has seen enough (laser data ... | head) is no error.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit(0);
  throw error;
});

try {
  await laserCommand().parseAsync();
} catch (error) {
  process.exitCode = reportError(error);
}
