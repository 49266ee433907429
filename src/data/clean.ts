// What published titles, brands and categories need before a language model should read them.
import he from "he";

/** A title that can be shown, or why there is none: nothing was given, or what was given is page markup. */
export type CleanTitle = { title: string } | { problem: "missing" | "broken" };

/**
 * Entities decoded (`&amp;` `&quot;` `&#39;`, also doubly escaped ones), white space collapsed, trimmed. Only
 * entities that end in a semicolon count, so that "AT&T" and "R&D" stay as they are.
 */
export function cleanText(text: string): string {
  let decoded = text;
  for (let pass = 0; pass < 2 && decoded.includes("&"); pass++) {
    decoded = decoded.replace(/&(?:#\d+|#x[0-9a-f]+|[a-z][a-z0-9]*);/gi, (entity) => he.decode(entity));
  }
  // \p{Cc} and \p{Cf} hold control and invisible formatting characters, \s also the no-break space.
  return decoded
    .replace(/[\s\p{Cc}]+/gu, " ")
    .replace(/\p{Cf}/gu, "")
    .trim();
}

/**
 * A title is missing when nothing is left after cleaning, and broken when it holds page markup (`<span id=...`, which
 * Amazon's crawl has), a piece of script, or no letter or digit at all.
 */
export function cleanTitle(raw: unknown): CleanTitle {
  if (typeof raw !== "string" && typeof raw !== "number") return { problem: "missing" };
  const title = cleanText(String(raw));
  if (!title) return { problem: "missing" };
  if (hasMarkup(title) || title.includes("var aPageStart") || !/[\p{L}\p{N}]/u.test(title))
    return { problem: "broken" };
  return { title };
}

/** A brand or category, or undefined when there is none worth showing. "Visit Amazon's X Page" becomes X. */
export function cleanLabel(raw: unknown): string | undefined {
  if (typeof raw !== "string" && typeof raw !== "number") return undefined;
  const label = cleanText(String(raw)).replace(/^Visit Amazon's (.+) Page$/, "$1");
  return label && !hasMarkup(label) && /[\p{L}\p{N}]/u.test(label) ? label : undefined;
}

/** Category names are short; crawled category lists sometimes go on into lines of the product's description. */
const LONGEST_CATEGORY = 60;

/**
 * The most informative of a list of categories from general to special: the last one that is a usable label of at
 * most 60 characters.
 */
export function lastCategory(categories: readonly unknown[]): string | undefined {
  for (let i = categories.length - 1; i >= 0; i--) {
    const label = cleanLabel(categories[i]);
    if (label && label.length <= LONGEST_CATEGORY) return label;
  }
  return undefined;
}

function hasMarkup(text: string): boolean {
  return /<[a-z/!]/i.test(text);
}
