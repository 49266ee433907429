import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import type { Command } from "commander";
import { writeFileAtomic } from "../files/atomic.ts";
import { repositoryRoot } from "../llm/locate.ts";
import { ABLATIONS } from "../train/ablations.ts";
import { FIELDS, PRESETS } from "../train/config.ts";
import type { Field } from "../train/fields.ts";
import { asFlags, defaultText, flagOf } from "./flags.ts";

const NOTE = "<!-- Made by `node dist/cli.js docs --write` from the program itself. Do not edit. -->";

/** `laser docs` (hidden): docs/cli.md and docs/config.md, made from the commands and the table of fields. */
export function registerDocs(program: Command): void {
  program
    .command("docs", { hidden: true })
    .description("print docs/cli.md and docs/config.md, or write them")
    .option("--write", "write the files")
    .action(async (flags: { readonly write?: boolean }) => {
      const folder = join(repositoryRoot(), "docs");
      for (const [name, text] of Object.entries(documents(program))) {
        if (!flags.write) process.stdout.write(text);
        else {
          await mkdir(folder, { recursive: true });
          await writeFileAtomic(join(folder, name), text);
        }
      }
    });
}

/** The generated pages by file name. */
export function documents(program: Command): Record<"cli.md" | "config.md", string> {
  return { "cli.md": commandPage(program), "config.md": configPage() };
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
