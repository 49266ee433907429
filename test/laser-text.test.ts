/** The texts that Laser shows the language model: which items fit, and what the recommender is told of them. */
import { suite } from "uvu";
import * as assert from "uvu/assert";
import type { Item } from "../src/data/dataset.ts";
import { historyText } from "../src/data/template.ts";
import { UserError } from "../src/files/user-error.ts";
import { Texts } from "../src/laser/text.ts";
import { openBackbone } from "../src/train/backbone.ts";
import { type Config, defaultConfig } from "../src/train/config.ts";
import { runTexts } from "../src/train/session.ts";
import { repositoryPath } from "./shared.ts";

const t = suite("Laser's texts");
const { tokenizer, config: llama } = await openBackbone(repositoryPath("weights/shop-llama"));

const KINDS = ["mug", "green tea pot", "steel lunch box", "desk lamp"];
const ITEMS: Item[] = Array.from({ length: 24 }, (_, i) => ({
  id: `i${i}`,
  title: `${KINDS[i % KINDS.length]} number ${i}`,
  brand: i % 3 ? "Hollow Oak" : undefined,
}));

const textsOf = (maxTokens: number, values: Partial<ConstructorParameters<typeof Texts>[2]> = {}) =>
  new Texts(ITEMS, tokenizer, { template: "paper", maxHistory: 10, maxTokens, ...values });

t("texts drop whole items, oldest first, until they fit, and say which they show", () => {
  const history = [4, 8, 15, 16, 23];
  const written = (items: readonly number[]) =>
    Uint32Array.from([
      ...tokenizer.leading,
      ...tokenizer.encode(
        historyText(
          items.map((i) => ITEMS[i]),
          { template: "paper" },
        ),
      ),
    ]);
  const lengths = history.map((_, first) => written(history.slice(first)).length);
  assert.ok(lengths.every((length, i) => i === 0 || length < lengths[i - 1]));
  for (const [first, length] of lengths.entries()) {
    // Room for exactly this many tokens, and for all but one of the next longer text's.
    for (const room of [length, first ? lengths[first - 1] - 1 : length + 100]) {
      const text = textsOf(room).user(history);
      assert.equal(text.items, history.slice(first));
      assert.equal(text.ids, written(history.slice(first)));
      // Whole titles, numbered from 1.
      const shown = tokenizer.decode([...text.ids]);
      assert.match(shown, ` >> 1. ${ITEMS[history[first]].title}`);
      assert.match(shown, ITEMS[23].title);
      assert.is(shown.split(" >> ").length - 1, 5 - first);
    }
  }
  const alone = lengths[lengths.length - 1];
  assert.throws(
    () => textsOf(alone - 1).user(history),
    (error: Error) =>
      error instanceof UserError &&
      error.message.startsWith(
        `item i23 ("${ITEMS[23].title}"): its text alone needs more than the ${alone - 1} tokens`,
      ),
  );
});

t("texts show the newest items, also for a repeated or a typed history", () => {
  const texts = textsOf(500, { maxHistory: 3 });
  assert.equal(texts.user(Uint32Array.of(1, 2, 3, 4, 4)).items, [3, 4, 4]);
  assert.equal(texts.user([9, 3, 4, 4]), texts.user([3, 4, 4]));
  assert.not.equal(texts.user([4, 3, 4]).ids, texts.user([3, 4, 4]).ids);
  // An item is a history of one, unless the template tells them apart.
  assert.equal(texts.item(5), texts.user([5]));
  const two = textsOf(500, { template: "two-instructions" });
  assert.not.equal(two.item(5).ids, two.user([5]).ids);
  assert.equal(two.item(5).items, [5]);
});

t("virtual tokens leave the backbone's positions to the text; without room for one it is refused", () => {
  const texts = (values: Partial<Config>) => () =>
    runTexts(ITEMS, tokenizer, llama, 20, { ...defaultConfig(), maxHistory: 20, ...values });
  // 512 positions hold the text of 20 items, but not beside 400 virtual tokens.
  const long = Array.from({ length: 20 }, (_, i) => i);
  const few = texts({})().user(long);
  const fewer = texts({ queryTokens: 399 })().user(long);
  assert.ok(fewer.items.length < few.items.length);
  assert.ok(fewer.ids.length + 400 <= llama.maxPositions);
  assert.throws(texts({ queryTokens: 512 }), /leave no room for text in the backbone's 512 positions/);
  assert.throws(texts({ maxHistory: 21 }), /maxHistory 21 is more than the recommender's 20 positions/);
  texts({ maxHistory: 21, prefix: "free" })();
});

t("a hard EOS token takes a place of its own, and the backbone must name it", () => {
  const of = (endId: number | undefined, values: Partial<Config>) =>
    runTexts(ITEMS, tokenizer, { ...llama, endId }, 20, { ...defaultConfig(), ...values });
  const long = Array.from({ length: 10 }, (_, i) => i);
  const { length } = of(2, {}).user(long).ids;
  const room = (values: Partial<Config>) =>
    of(2, { queryTokens: 512 - length, ...values }).user(long).items.length;
  // [prefix][text] fill the positions: there is room for nothing more.
  assert.is(room({ pooling: "mean" }), 10);
  assert.ok(room({ pooling: "eos" }) < 10);
  assert.ok(room({ pooling: "suffix" }) < 10);
  assert.is(of(2, { pooling: "mean", suffixTokens: 300 }).user(long).items.length, 10);
  assert.throws(() => of(undefined, { pooling: "eos" }), /names no eos_token_id; add it there/);
  of(undefined, { pooling: "mean" });
});

t.run();
