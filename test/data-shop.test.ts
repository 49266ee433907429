import { suite } from "uvu";
import * as assert from "uvu/assert";
import { coldItems, testCase, trainingCounts, validationCase } from "../src/data/dataset.ts";
import { generateShop, SHOP_MIXTURE, SHOP_RULES, shopTexts } from "../src/data/shop.ts";
import { UserError } from "../src/files/user-error.ts";

const t = suite("data: embedded shop");
const shop = generateShop();
const { dataset, partners, rules, launches } = shop;
const { items, sequences } = dataset;

t("is the same shop every time, and another one for another seed", () => {
  // The demo's figures in the documentation hold for this shop. It changes only on purpose.
  assert.is(dataset.hash, "f1b00b26a9272d586539f63e6cd3beada08382ebd7d9fbd766426d068dec0e58");
  assert.is(generateShop({ seed: 1 }).dataset.hash, dataset.hash);
  const other = generateShop({ seed: 2 });
  assert.is.not(other.dataset.hash, dataset.hash);
  assert.is.not(other.partners[0].join(), partners[0].join());
  const titles = new Set(items.map((item) => item.title));
  const shared = other.dataset.items.filter((item) => titles.has(item.title)).length;
  assert.ok(shared < 20, `${shared} of 400 titles are in both shops`);
});

t("has the size and the shape that its header promises", () => {
  assert.is(items.length, 400);
  assert.is(sequences.length, 1000);
  for (const sequence of sequences) {
    assert.ok(sequence.length >= 6 && sequence.length <= 14);
    assert.is(new Set(sequence).size, sequence.length, "nobody buys an item twice");
  }
  const words = new Set<string>();
  for (const { title, brand, category } of items) {
    const inTitle = title.split(" ");
    assert.ok(inTitle.length >= 4 && inTitle.length <= 7, title);
    for (const word of [...inTitle, brand ?? "", category ?? ""]) words.add(word);
    assert.ok(brand && category && /^[\x20-\x7e]+$/.test(title + brand + category), title);
  }
  assert.ok(words.size <= 350, `${words.size} words`);
  assert.is(new Set(items.map((item) => item.title)).size, 400, "titles are unique");
});

t("draws the next item by the documented mixture", () => {
  const counts = SHOP_RULES.map(() => 0);
  let total = 0;
  for (const drawn of rules) {
    for (const rule of drawn.subarray(1)) counts[rule]++;
    total += drawn.length - 1;
  }
  assert.is(
    SHOP_MIXTURE.reduce((a, b) => a + b),
    1,
  );
  // What a rule cannot find goes to the last, `popular`: no share is above its own (five deviations) but that one's.
  counts.slice(0, -1).forEach((count, rule) => {
    const deviation = 5 * Math.sqrt(SHOP_MIXTURE[rule] / total);
    assert.ok(count / total < SHOP_MIXTURE[rule] + deviation, SHOP_RULES[rule]);
    assert.ok(count / total > SHOP_MIXTURE[rule] - deviation - 0.04, SHOP_RULES[rule]);
  });
});

t("depends on the hidden graph and on the text, each seen from outside", () => {
  const isPartner = (a: number, b: number): boolean => partners.some((partner) => partner[a] === b);
  const sameCategory = (a: number, b: number): boolean => items[a].category === items[b].category;
  const sameBrand = (a: number, b: number): boolean => items[a].brand === items[b].brand;
  let pairs = 0;
  let partnerPairs = 0;
  let categoryPairs = 0;
  let brandPairs = 0;
  for (const sequence of sequences) {
    for (let k = 1; k < sequence.length; k++) {
      pairs++;
      if (isPartner(sequence[k - 1], sequence[k])) partnerPairs++;
      if (sameCategory(sequence[k - 1], sequence[k])) categoryPairs++;
      if (sameBrand(sequence[k - 1], sequence[k])) brandPairs++;
    }
  }
  // By chance: 3 of 400, 1 of 8 categories, about 1 of 24 brands.
  assert.ok(partnerPairs / pairs > 0.3 && partnerPairs / pairs < 0.4, `partners ${partnerPairs / pairs}`);
  assert.ok(categoryPairs / pairs > 0.25, `same category ${categoryPairs / pairs}`);
  assert.ok(brandPairs / pairs > 0.12, `same brand ${brandPairs / pairs}`);

  // The hidden graph is not in the text: partners share a category no more often than chance (1 of 8) has it.
  let related = 0;
  for (const partner of partners) related += partner.filter((b, a) => sameCategory(a, b)).length;
  const chance = 1 / 8;
  const deviation = Math.sqrt((chance * (1 - chance)) / 1200);
  assert.ok(Math.abs(related / 1200 - chance) < 4 * deviation, `partners of one category: ${related / 1200}`);
  for (const partner of partners) {
    assert.is(new Set(partner).size, 400, "every item is a partner equally often");
    assert.ok(
      partner.every((b, a) => a !== b),
      "nothing is its own partner",
    );
  }
});

t("rules leave their mark: every item drawn by a rule fits it", () => {
  for (let u = 0; u < sequences.length; u++) {
    for (let k = 1; k < sequences[u].length; k++) {
      const [last, next] = [items[sequences[u][k - 1]], items[sequences[u][k]]];
      const rule = SHOP_RULES[rules[u][k]];
      if (rule === "brand") assert.is(next.brand, last.brand);
      if (rule === "companion") assert.is(next.category, last.category);
      if (rule === "partner") {
        assert.ok(partners.some((partner) => partner[sequences[u][k - 1]] === sequences[u][k]));
      }
    }
  }
});

t("has cold items that are targets, some never seen in training", () => {
  const counts = trainingCounts(dataset);
  const cold = coldItems(counts);
  assert.is(
    cold.reduce((a, b) => a + b),
    140,
  );
  const targets = sequences.flatMap((sequence) => [
    testCase(sequence)!.target,
    validationCase(sequence)!.target,
  ]);
  const coldTargets = targets.filter((item) => cold[item]).length;
  const unseen = targets.filter((item) => counts[item] === 0).length;
  assert.ok(coldTargets > 200, `${coldTargets} cold targets`);
  assert.ok(unseen > 10, `${unseen} targets never seen in training`);
  assert.ok(launches.filter((launch) => launch > 0).length > 50);
});

t("gives texts for training, from its own words", () => {
  const texts = [...shopTexts({ seed: "text", users: 50 })];
  assert.is(texts.length, 50);
  assert.equal(texts, [...shopTexts({ seed: "text", users: 50 })]);
  for (const text of texts) {
    assert.match(text, /^You are an intelligent [^\n]+:\n >> 1\. /);
    assert.ok(!text.includes("undefined") && /^[\x20-\x7e\n]+$/.test(text));
  }
  assert.ok(
    texts.some((text) => text.includes(" >> 10. ")) && texts.some((text) => !text.includes(" >> 4. ")),
  );
});

t("refuses sizes that make no shop", () => {
  assert.throws(
    () => generateShop({ items: 3 }),
    (error: Error) => error instanceof UserError,
  );
  assert.throws(
    () => generateShop({ users: 1.5 }),
    (error: Error) => error instanceof UserError,
  );
});

t.run();
