// What the scripts of this folder and bench/full.js share: their command line.
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";

/**
 * Options and operands of a script, as parseArgs gives them. --help prints the comment at the head of the script's file; what
 * is not known, or no whole number above zero where `counts` names the option, gets one line and exit code 1.
 */
export function scriptArguments(options, { operands = false, counts = [] } = {}) {
  let parsed;
  try {
    const help = { type: "boolean", short: "h" };
    parsed = parseArgs({ allowPositionals: operands, options: { ...options, help } });
  } catch (error) {
    stop(error.message.split(". ")[0]);
  }
  if (parsed.values.help) {
    const [header] = readFileSync(process.argv[1], "utf8").split(/^(?!\/\/)/m);
    console.log(header.replace(/^\/\/ ?/gm, "").trimEnd());
    process.exit(0);
  }
  for (const name of counts) {
    const value = parsed.values[name];
    if (value !== undefined && !(Number.isSafeInteger(Number(value)) && Number(value) > 0))
      stop(`--${name} ${value}: expected a whole number above zero`);
  }
  return parsed;
}

/** Ends the script with one line. */
export function stop(message) {
  console.error(`${message}; see --help`);
  process.exit(1);
}
