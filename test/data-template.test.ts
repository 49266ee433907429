import { suite } from "uvu";
import * as assert from "uvu/assert";
import { historyText, itemLine, itemText, TEMPLATES, textPieces } from "../src/data/template.ts";

const t = suite("data: templates");
const bedding = { id: "a", title: "Kaytee Aspen Bedding Bag", brand: "Kaytee", category: "Kaytee" };
const bare = { id: "b", title: "Bowl" };
const HEAD =
  "You are an intelligent recommendation assistant. Please summarize the user's characteristics into a single token based on the interaction history. In chronological order, the user has interacted with the following items:";

t("the paper's template, letter by letter", () => {
  assert.is(
    historyText([bedding, bare]),
    `${HEAD}\n >> 1. Kaytee Aspen Bedding Bag (brand: Kaytee, category: Kaytee)\n >> 2. Bowl`,
  );
  assert.is(itemText(bedding), historyText([bedding]), "an item is a history of one");
});

t("missing brand or category is left out", () => {
  assert.is(itemLine(bare, 3), " >> 3. Bowl");
  assert.is(itemLine({ ...bare, brand: "X" }, 1), " >> 1. Bowl (brand: X)");
  assert.is(itemLine({ ...bare, category: "Y" }, 1), " >> 1. Bowl (category: Y)");
  assert.is(itemLine({ ...bare, brand: "" }, 1), " >> 1. Bowl");
});

t("the variants of Table 5", () => {
  assert.is(
    historyText([bare], { template: "no-phrase" }),
    "You are an intelligent recommendation assistant. Please summarize the user's characteristics based on the interaction history. In chronological order, the user has interacted with the following items:\n >> 1. Bowl",
  );
  assert.is(historyText([bare, bedding], { template: "no-instruction" }).split("\n")[0], " >> 1. Bowl");
  assert.is(
    itemText(bare, "two-instructions"),
    "You are an intelligent recommendation assistant. Please summarize the item characteristics into a single token:\n >> 1. Bowl",
  );
  assert.is(historyText([bare], { template: "two-instructions" }), historyText([bare]));
});

t("the newest items are kept and numbered from 1; the pieces make up the text", () => {
  const history = Array.from({ length: 13 }, (_, k) => ({ id: `${k}`, title: `Title ${k}` }));
  const lines = historyText(history).split("\n").slice(1);
  assert.is(lines.length, 10);
  assert.is(lines[0], " >> 1. Title 3");
  assert.is(lines[9], " >> 10. Title 12");
  assert.is(historyText(history, { maxHistory: 1 }), `${HEAD}\n >> 1. Title 12`);
  assert.is(textPieces(history, { maxHistory: 100 }).lines.length, 13);
  for (const template of TEMPLATES) {
    const pieces = textPieces(history, { template });
    assert.is(pieces.head + pieces.lines.join(""), historyText(history, { template }));
  }
});

t.run();
