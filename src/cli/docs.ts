import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Command } from "commander";
import { writeFileAtomic } from "../files/atomic.ts";
import { repositoryRoot } from "../llm/locate.ts";
import { size, totalBytes } from "../llm/memory.ts";
import { PUBLISHED } from "../llm/published.ts";
import { ABLATIONS } from "../train/ablations.ts";
import { FIELDS, PRESETS } from "../train/config.ts";
import type { Field } from "../train/fields.ts";
import { asFlags, defaultText, flagOf } from "./flags.ts";
import { planOf } from "./plan.ts";

const NOTE = "<!-- Made by `node dist/cli.js docs --write` from the program itself. Do not edit. -->";

/** `laser docs` (hidden): docs/cli.md, docs/config.md and README.md's table of backbones, made from the program itself. */
export function registerDocs(program: Command): void {
  program
    .command("docs", { hidden: true })
    .description("print docs/cli.md, docs/config.md and README.md with its table of backbones, or write them")
    .option("--write", "write the files")
    .action(async (flags: { readonly write?: boolean }) => {
      const root = repositoryRoot();
      const readme = await withBackbones(await readFile(join(root, "README.md"), "utf8"));
      const pages = {
        "docs/cli.md": commandPage(program),
        "docs/config.md": configPage(),
        "README.md": readme,
      };
      await mkdir(join(root, "docs"), { recursive: true });
      for (const [name, text] of Object.entries(pages)) {
        if (flags.write) await writeFileAtomic(join(root, name), text);
        else process.stdout.write(text);
      }
    });
}

const TABLE = /(<!-- backbones: [^\n]*-->\n).*(\n<!-- \/backbones -->)/s;

/** README.md with the table of published backbones as `laser plan` accounts for them now. */
async function withBackbones(readme: string): Promise<string> {
  const rows = [
    "| `--backbone` | published as | weights | training | with `--weights int4` |",
    "|---|---|---|---|---|",
  ];
  for (const [name, { repositories }] of Object.entries(PUBLISHED)) {
    const [f16, int4] = await Promise.all([planOf(name, "f16"), planOf(name, "int4")]);
    const weights = f16.parts.find((part) => part.name === "backbone weights")!.bytes;
    const figures = [weights, totalBytes(f16), totalBytes(int4)].map(size);
    rows.push(`| \`${name}\` | ${repositories[0]} | ${figures.join(" | ")} |`);
  }
  if (!TABLE.test(readme)) throw new Error("README.md has no place for the table of backbones");
  return readme.replace(TABLE, (_, begin: string, end: string) => `${begin}\n${rows.join("\n")}\n${end}`);
}

function commandPage(program: Command): string {
  const commands = program.commands.filter((command) => !["docs", "help"].includes(command.name()));
  const pages = [program, ...commands].map((command) => {
    // The whole help as it is printed, at a fixed width and without what follows from this machine's environment.
    let help = "";
    command.configureHelp({ helpWidth: 110 });
    command.configureOutput({ writeOut: (text) => (help += text), getOutHelpWidth: () => 110 });
    command.outputHelp();
    const title = command === program ? "laser" : `laser ${command.name()}`;
    return `## ${title}\n\n\`\`\`text\n${help.trim()}\n\`\`\`\n`;
  });
  return `${NOTE}\n# Commands\n\nRun as \`npx laser\`, \`node dist/cli.js\`, or \`npm run NAME -- ...\`. Results go to stdout, everything else to stderr. A mistake\nin what was given is one line on stderr and exit code 1; an interrupted training exits with 130.\n\n${pages.join("\n")}`;
}

function configPage(): string {
  const rows = (Object.entries(FIELDS) as [string, Field][]).map(
    ([name, field]) =>
      `| \`${name}\` | \`${flagOf(name)}\` | ${accepted(field)} | ${defaultText(field)} | ${field.help.replaceAll("|", "\\|")} |`,
  );
  const presets = Object.entries(PRESETS).map(([name, values]) => {
    const changes = Object.entries(values).map(([field, value]) => `\`${field}\` ${value}`);
    return `- \`${name}\`: ${changes.join(", ") || "the defaults"}`;
  });
  const ablations = ABLATIONS.map(
    ({ name, table, row, fields }) =>
      `| \`--ablation ${name}\` | ${row} | ${table} | \`${asFlags(fields)}\` |`,
  );
  return `${NOTE}
# Configuration

Every hyper-parameter is a field of one JSON object (\`laser train --config FILE.json\`) and a flag of \`laser train\`. A flag
wins over the file, the file over the preset. The run folder's \`config.json\` holds the resolved values.

| field | flag | value | default | meaning |
|---|---|---|---|---|
${rows.join("\n")}

Presets (\`--preset\`):

${presets.join("\n")}

Ablations (\`--ablation\`): every row of the paper's tables 3, 4 and 5 is one flag. It sets the fields beside it, over the
preset and the config file; a flag that says otherwise is refused. \`laser ablations\` trains them all.

| flag | row | in the paper | the same as |
|---|---|---|---|
${ablations.join("\n")}
`;
}

function accepted(field: Field): string {
  switch (field.kind) {
    case "choice":
      return field.choices.map((choice) => `\`${choice}\``).join(", ");
    case "flag":
      return "`true`, `false`";
    case "number-or-off":
      return `a number above ${field.min}, or \`off\` (\`null\` in JSON)`;
    default: {
      const range = field.max === undefined ? `from ${field.min}` : `${field.min} to ${field.max}`;
      return `${field.kind === "integer" ? "whole number" : "number"} ${range}`;
    }
  }
}
