// The hard prompts (the paper's section 4.1, its variants in Appendix D and Table 5). One template serves a user's
// history and a single item, which is a history of one:
//
//   You are an intelligent recommendation assistant. Please summarize the user's characteristics into a single token
//   based on the interaction history. In chronological order, the user has interacted with the following items:
//    >> 1. Kaytee Aspen Bedding Bag (brand: Kaytee, category: Kaytee)
//    >> 2. ...
//
// The head is one line; then one line an item, oldest first, each beginning with a space.
import type { Item } from "./dataset.ts";

/** `paper` is the default; the others are the rows of Table 5. */
export const TEMPLATES = ["paper", "no-phrase", "no-instruction", "two-instructions"] as const;
export type TemplateName = (typeof TEMPLATES)[number];

/** Whose text it is: a user's history or an item alone. Only `two-instructions` tells them apart. */
export type TextRole = "user" | "item";

/** As in the authors' code: a text shows at most the ten newest items. */
export const DEFAULT_MAX_HISTORY = 10;

const ASSISTANT = "You are an intelligent recommendation assistant.";
const LIST = "In chronological order, the user has interacted with the following items:";
const PAPER_HEAD = `${ASSISTANT} Please summarize the user's characteristics into a single token based on the interaction history. ${LIST}`;

/** The text before the list; "" for `no-instruction`. */
export function templateHead(template: TemplateName, role: TextRole): string {
  switch (template) {
    case "paper":
      return PAPER_HEAD;
    case "no-phrase":
      return PAPER_HEAD.replace(" into a single token", "");
    case "no-instruction":
      return "";
    case "two-instructions":
      return role === "user"
        ? PAPER_HEAD
        : `${ASSISTANT} Please summarize the item characteristics into a single token:`;
  }
}

/** One line of the list, without a line end: " >> 2. Title (brand: X, category: Y)". `ordinal` counts from 1. */
export function itemLine(item: Pick<Item, "title" | "brand" | "category">, ordinal: number): string {
  const labels: string[] = [];
  if (item.brand) labels.push(`brand: ${item.brand}`);
  if (item.category) labels.push(`category: ${item.category}`);
  return ` >> ${ordinal}. ${item.title}${labels.length ? ` (${labels.join(", ")})` : ""}`;
}

/** A text in pieces: `head` followed by all `lines` is exactly the text. */
export interface TextPieces {
  head: string;
  /** One piece an item, oldest first; each brings the line break that sets it apart from what comes before. */
  lines: string[];
}

export interface TextOptions {
  template?: TemplateName;
  role?: TextRole;
  /** The newest items that are kept, at least 1. To fit a limit of tokens, ask again with a smaller number. */
  maxHistory?: number;
}

/** The pieces of the text of a history (oldest first). Numbering starts at 1 with the oldest item kept. */
export function textPieces(history: readonly Item[], options: TextOptions = {}): TextPieces {
  const { template = "paper", role = "user", maxHistory = DEFAULT_MAX_HISTORY } = options;
  const head = templateHead(template, role);
  const kept = history.slice(-Math.max(1, maxHistory));
  const lines = kept.map((item, k) => `${k === 0 && head === "" ? "" : "\n"}${itemLine(item, k + 1)}`);
  return { head, lines };
}

/** The whole text of a history (oldest first). */
export function historyText(history: readonly Item[], options: TextOptions = {}): string {
  const { head, lines } = textPieces(history, options);
  return head + lines.join("");
}

/** The whole text of an item alone. */
export function itemText(item: Item, template: TemplateName = "paper"): string {
  return historyText([item], { template, role: "item" });
}
