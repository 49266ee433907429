// The fixed vocabulary of the embedded shop: about 200 plain lower-case English words. Every generated shop draws its
// items from these lists; which combinations exist, and who buys what, depends on the shop's seed.

/** One kind of product: its noun, and its category by the place in the list. */
export interface Department {
  category: string;
  /** In a ring of complements: whoever bought a noun may next need the one after it (the last: the first). */
  nouns: readonly string[];
}

export const DEPARTMENTS: readonly Department[] = [
  { category: "kitchen", nouns: ["kettle", "teapot", "mug", "plate", "bowl", "spoon", "apron", "tray"] },
  {
    category: "garden",
    nouns: ["planter", "trowel", "gloves", "hose", "bench", "birdhouse", "lantern", "rake"],
  },
  {
    category: "office",
    nouns: ["notebook", "pen", "folder", "stapler", "desk", "chair", "calendar", "stamp"],
  },
  { category: "pets", nouns: ["leash", "collar", "feeder", "kennel", "brush", "cushion", "carrier", "ball"] },
  {
    category: "camping",
    nouns: ["tent", "hammock", "stove", "flask", "compass", "backpack", "blanket", "torch"],
  },
  { category: "bath", nouns: ["towel", "robe", "soap", "mirror", "mat", "basket", "curtain", "sponge"] },
  { category: "music", nouns: ["guitar", "strings", "capo", "drum", "flute", "stand", "tuner", "songbook"] },
  { category: "toys", nouns: ["puzzle", "kite", "robot", "doll", "train", "blocks", "wagon", "yoyo"] },
];

export const BRANDS: readonly string[] = [
  ..."Alder Birchway Corvina Dunmore Elmfield Fernly Gladwell Harrow Inverly Juno Kestrel Lomond".split(" "),
  ..."Marlow Norwick Orwell Pinecrest Quillon Rowan Selkirk Tamsin Umber Velden Wexford Yarrow".split(" "),
];

export const THEMES: readonly string[] = [
  ..."ocean forest desert space winter autumn tropical nordic vintage modern".split(" "),
  ..."floral animal pirate castle circus meadow thunder galaxy harvest festival".split(" "),
];

export const MATERIALS: readonly string[] =
  "cotton wooden steel leather bamboo ceramic glass copper rubber linen canvas stone".split(" ");

export const COLOURS: readonly string[] =
  "red blue green yellow black white orange purple pink grey brown silver".split(" ");

export const SIZES: readonly string[] = ["small", "large", "mini", "tall", "wide"];

/** What may end a title. */
export const ENDINGS: readonly string[] = ["set", "gift pack", "pack of two", "with case"];
