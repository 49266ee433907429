// The embedded shop: a small, deterministic world of items and users for `laser demo` and the tests, and text for
// training the tiny backbone. It was fixed by thought before any model saw it, and is not tuned to any model.
//
// Items. A title is [size] colour theme material noun [ending], 4 to 7 words; a brand, which works in two of the
// eight categories; and the category of the noun. Item popularity follows Zipf's law with exponent 0.7 and has
// nothing to do with the text. 20 % of the items are launched late, uniformly over the last 30 % of the shop's time;
// nobody buys an item before its launch, so some targets of validation and test were never or hardly seen in training.
//
// Hidden structure. Each item has three hidden partners, in a fixed order, given by three random permutations of all
// items: no text shows them, and every item is the partner of equally many items, so they do not show in the
// popularity either. Think of a recipe, a fashion or an advertisement that makes people buy two things together.
//
// Users. 6 to 14 interactions each (uniform) at uniform times between the user's arrival (uniform over the first 60 %
// of the time) and the end. A user has two favourite categories and a favourite theme. Nobody buys an item twice.
// The first item is drawn by popularity among the favourite categories; each next item by one rule of this mixture:
//
//   rule        share  the next item is                                              who can know it
//   style        0.25  of the favourite theme and a favourite category               text; ids from many purchases
//   companion    0.15  the noun that complements the last one's, same category,      text; ids from many purchases
//                      four times as likely with the last item's theme
//   brand        0.10  of the last item's brand                                      text; ids from many purchases
//   partner      0.35  a hidden partner of the last item (first 0.5, second 0.3,     ids only
//                      third 0.2)
//   popular      0.15  any, by popularity                                            popularity only
//
// So half of the choices follow the text, a third the hidden graph, the rest is noise: each of the two sources has
// enough to say that a model which misses one of them loses visibly, and no model can be right always. Inside a text
// rule items are drawn by the square root of popularity, three times as likely within a tenth of the time after their
// launch (new arrivals are shown on the front page). A rule that finds no item (all bought already, or not launched)
// passes on to `popular`; this happens to about 3 % of all choices, most of them of `style`, whose candidates are few.
import { UserError } from "../files/user-error.ts";
import { type Dataset, type Item, makeDataset } from "./dataset.ts";
import { Random } from "./random.ts";
import { BRANDS, COLOURS, DEPARTMENTS, ENDINGS, MATERIALS, SIZES, THEMES } from "./shop-words.ts";
import { historyText, type TemplateName } from "./template.ts";

export interface ShopOptions {
  /** Another seed is another shop from the same words. Default 1. */
  seed?: number | string;
  /** Default 400; at least 100, so that every category has several of its nouns. */
  items?: number;
  /** Default 1,000; at least 2. */
  users?: number;
}

/** The rules by which a next item is drawn, in the order of `SHOP_MIXTURE`. */
export const SHOP_RULES = ["style", "companion", "brand", "partner", "popular"] as const;

/** Probability of each rule of `SHOP_RULES`. */
export const SHOP_MIXTURE: readonly number[] = [0.25, 0.15, 0.1, 0.35, 0.15];

const PARTNER_SHARES = [0.5, 0.3, 0.2];
const POPULARITY_EXPONENT = 0.7;
const LATE_SHARE = 0.2;
const LATE_FROM = 0.7;
const ARRIVALS_UNTIL = 0.6;
const NEW_FOR = 0.1;
const NEW_BOOST = 3;
const SAME_THEME_BOOST = 4;

/** A generated shop, and the truth about it that no model is shown. */
export interface Shop {
  dataset: Dataset;
  /** partners[k][i]: the k-th hidden partner of item i. */
  partners: Uint32Array[];
  /** rules[u][k]: index into SHOP_RULES of what really drew item k of user u; the first item counts as "popular". */
  rules: Uint8Array[];
  /** Launch time of each item in [0, 1); 0 for those that were there from the start. */
  launches: Float64Array;
}

/** What the rules need to know of an item, besides its text. */
interface Product {
  department: number;
  noun: number;
  theme: number;
  brand: number;
  popularity: number;
  launch: number;
}

interface World {
  products: Product[];
  partners: Uint32Array[];
}

interface Taste {
  departments: [number, number];
  theme: number;
}

/** Generates a shop; the same options give the same shop on every machine. */
export function generateShop(options: ShopOptions = {}): Shop {
  const { seed = 1, items: itemCount = 400, users: userCount = 1000 } = options;
  if (!(itemCount >= 100 && userCount >= 2) || !Number.isInteger(itemCount) || !Number.isInteger(userCount)) {
    throw new UserError(
      `a shop needs at least 100 items and 2 users, and it was to have ${itemCount} items and ${userCount} users`,
    );
  }
  const { items, products } = makeItems(itemCount, seed);
  const graph = new Random(seed, "shop", "partners");
  const partners = PARTNER_SHARES.map(() => withoutFixedPoints(graph.permutation(itemCount)));
  const world: World = { products, partners };

  const users: string[] = [];
  const sequences: Uint32Array[] = [];
  const rules: Uint8Array[] = [];
  for (let u = 0; u < userCount; u++) {
    const { bought, drawnBy } = shopping(world, new Random(seed, "shop", "user", u));
    users.push(`u${String(u + 1).padStart(4, "0")}`);
    sequences.push(Uint32Array.from(bought));
    rules.push(Uint8Array.from(drawnBy));
  }
  const dataset = makeDataset({
    name: `shop-${seed}`,
    users,
    items,
    sequences,
    provenance: { format: "shop", core: 0, duplicates: "keep", dropped: [], files: [], unusedItems: 0 },
  });
  return { dataset, partners, rules, launches: Float64Array.from(products, (product) => product.launch) };
}

/**
 * Texts of a shop for training a language model, one for each user: the template over the history up to a random
 * length, so that short and long lists, up to the template's ten newest items, all occur.
 */
export function* shopTexts(options: ShopOptions & { template?: TemplateName } = {}): Generator<string> {
  const { dataset } = generateShop(options);
  const random = new Random(options.seed ?? 1, "shop", "texts");
  for (const sequence of dataset.sequences) {
    const end = 1 + random.below(sequence.length);
    const history = Array.from(sequence.subarray(0, end), (item) => dataset.items[item]);
    yield historyText(history, { template: options.template });
  }
}

function makeItems(count: number, seed: number | string): { items: Item[]; products: Product[] } {
  const random = new Random(seed, "shop", "items");
  const brandHomes = BRANDS.map(() => random.permutation(DEPARTMENTS.length).subarray(0, 2));
  const brandsOf = DEPARTMENTS.map((_, d) =>
    BRANDS.map((_, b) => b).filter((b) => brandHomes[b].includes(d)),
  );
  const ranks = random.permutation(count);
  const taken = new Set<string>();
  const items: Item[] = [];
  const products: Product[] = [];
  while (items.length < count) {
    // Departments and nouns go round, so that each has its items whatever the count.
    const department = items.length % DEPARTMENTS.length;
    const { category, nouns } = DEPARTMENTS[department];
    const noun = Math.floor(items.length / DEPARTMENTS.length) % nouns.length;
    const theme = random.below(THEMES.length);
    const words = [random.pick(COLOURS), THEMES[theme], random.pick(MATERIALS), nouns[noun]];
    if (random.uniform() < 0.4) words.unshift(random.pick(SIZES));
    if (random.uniform() < 0.3) words.push(random.pick(ENDINGS));
    // A department that no brand calls home is open to all.
    const brands = brandsOf[department].length ? brandsOf[department] : BRANDS.map((_, b) => b);
    const brand = random.pick(brands);
    const title = words.join(" ");
    if (taken.has(title) || title.split(" ").length > 7) continue;
    taken.add(title);
    const late = random.uniform() < LATE_SHARE;
    products.push({
      department,
      noun,
      theme,
      brand,
      popularity: (1 + ranks[items.length]) ** -POPULARITY_EXPONENT,
      launch: late ? LATE_FROM + (1 - LATE_FROM) * random.uniform() : 0,
    });
    items.push({
      id: `p${String(items.length + 1).padStart(4, "0")}`,
      title,
      brand: BRANDS[brand],
      category,
    });
  }
  return { items, products };
}

/** No item is its own partner: a fixed point changes places with its neighbour. */
function withoutFixedPoints(permutation: Uint32Array): Uint32Array {
  const n = permutation.length;
  for (let i = 0; i < n; i++) {
    if (permutation[i] !== i) continue;
    const other = (i + 1) % n;
    permutation[i] = permutation[other];
    permutation[other] = i;
  }
  return permutation;
}

/** One user's purchases, and the rule that drew each. */
function shopping(world: World, random: Random): { bought: number[]; drawnBy: number[] } {
  const [first, second] = random.permutation(DEPARTMENTS.length);
  const taste: Taste = { departments: [first, second], theme: random.below(THEMES.length) };
  const arrival = ARRIVALS_UNTIL * random.uniform();
  const length = 6 + random.below(9);
  const times = Array.from({ length }, () => arrival + (1 - arrival) * random.uniform()).sort(
    (a, b) => a - b,
  );
  const popular = SHOP_RULES.indexOf("popular");
  const bought: number[] = [];
  const drawnBy: number[] = [];
  for (const time of times) {
    const last = bought.at(-1);
    let rule = last === undefined ? popular : random.weighted(SHOP_MIXTURE);
    const weights = (as: number): Float64Array => ruleWeights(world, taste, as, time, bought);
    let chances = weights(rule);
    if (last === undefined) chances = atHome(world, taste, chances);
    if (!chances.some((chance) => chance > 0)) {
      rule = popular;
      chances = weights(popular);
    }
    bought.push(random.weighted(chances));
    drawnBy.push(rule);
  }
  return { bought, drawnBy };
}

/** The chance (unnormalised) of every item to be drawn next by one rule: 0 for items bought or not yet launched. */
function ruleWeights(world: World, taste: Taste, rule: number, time: number, bought: number[]): Float64Array {
  const { products, partners } = world;
  const last = bought.at(-1) ?? 0;
  const previous = products[last];
  const weights = new Float64Array(products.length);
  switch (SHOP_RULES[rule]) {
    case "partner":
      for (let k = 0; k < partners.length; k++) weights[partners[k][last]] += PARTNER_SHARES[k];
      break;
    case "popular":
      for (let i = 0; i < weights.length; i++) weights[i] = products[i].popularity;
      break;
    default:
      for (let i = 0; i < weights.length; i++) {
        const isNew = products[i].launch > 0 && time - products[i].launch < NEW_FOR;
        const match = textMatch(SHOP_RULES[rule], products[i], previous, taste);
        weights[i] = match * Math.sqrt(products[i].popularity) * (isNew ? NEW_BOOST : 1);
      }
  }
  for (let i = 0; i < weights.length; i++) if (products[i].launch > time) weights[i] = 0;
  for (const item of bought) weights[item] = 0;
  return weights;
}

function textMatch(
  rule: (typeof SHOP_RULES)[number],
  product: Product,
  previous: Product,
  taste: Taste,
): number {
  if (rule === "style") {
    return product.theme === taste.theme && taste.departments.includes(product.department) ? 1 : 0;
  }
  if (rule === "brand") return product.brand === previous.brand ? 1 : 0;
  const complement = (previous.noun + 1) % DEPARTMENTS[previous.department].nouns.length;
  if (product.department !== previous.department || product.noun !== complement) return 0;
  return product.theme === previous.theme ? SAME_THEME_BOOST : 1;
}

function atHome({ products }: World, taste: Taste, chances: Float64Array): Float64Array {
  return chances.map((chance, i) => (taste.departments.includes(products[i].department) ? chance : 0));
}
