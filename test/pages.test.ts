/** The measured tables of the documentation are what bench/results hold, and every file there is shown by a page. */
import { spawnSync } from "node:child_process";
import { cpSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { repositoryPath } from "./shared.ts";
import { temporaryFolder } from "./temporary.ts";

const t = suite("measured pages");

function pages(root: string, ...flags: string[]) {
  const file = join(root, "bench/pages.js");
  const { status, stdout, stderr } = spawnSync(process.execPath, [file, ...flags], { encoding: "utf8" });
  return { status, stdout, stderr };
}

t("tables are those of their files", () => {
  const { status, stdout, stderr } = pages(repositoryPath(""));
  assert.is(status, 0, stderr);
  assert.match(stdout, /^\d\d tables of bench\/results$/m);
});

t("every file of bench/results is named by a page", () => {
  const folders = ["docs", "docs/kernels"].map((folder) => repositoryPath(folder));
  const text = folders
    .flatMap((folder) => readdirSync(folder).map((name) => join(folder, name)))
    .filter((path) => path.endsWith(".md"))
    .map((path) => readFileSync(path, "utf8"))
    .join();
  for (const name of readdirSync(repositoryPath("bench/results")))
    assert.ok(text.includes(name), `no page shows bench/results/${name}`);
});

t("a changed figure is found, and made right by --write; a missing file is named", () => {
  const copy = temporaryFolder();
  for (const part of ["bench/pages.js", "bench/spread.js", "bench/results", "docs"])
    cpSync(repositoryPath(part), join(copy, part), { recursive: true });
  const page = join(copy, "docs/kernels/adam.md");
  const before = readFileSync(page, "utf8");
  writeFileSync(page, before.replace(/\| Adam, four \| \d/, "$&7"));
  assert.is.not(readFileSync(page, "utf8"), before);
  const found = pages(copy);
  assert.is(found.status, 1);
  assert.match(
    found.stderr,
    "docs/kernels/adam.md is not what bench/results say: run node bench/pages.js --write",
  );
  assert.is(pages(copy, "--write").status, 0);
  assert.is(readFileSync(page, "utf8"), before);
  writeFileSync(page, before.replace(/measured memory-/, "measured memory-of-nobody-"));
  const missing = pages(copy);
  assert.is(missing.status, 1);
  assert.match(missing.stderr, /adam\.md: bench\/results\/memory-of-nobody-\S+ is missing/);
  assert.is(pages(copy, "--wrote").status, 1);
});

t.run();
