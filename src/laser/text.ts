import type { Item } from "../data/dataset.ts";
import { historyText, type TemplateName, type TextRole } from "../data/template.ts";
import { UserError } from "../files/user-error.ts";
import type { Tokenizer } from "../llm/tokenizer.ts";

/** A text ready for the language model, and the items it shows: the recommender reads exactly these (section 4.2). */
export interface TokenizedText {
  /** Token ids, with the tokenizer's own leading special tokens. */
  readonly ids: Uint32Array;
  /** Item indexes, oldest first. */
  readonly items: readonly number[];
}

export interface TextSettings {
  readonly template: TemplateName;
  /** Newest items a text shows at most. */
  readonly maxHistory: number;
  /** Tokens a text may have: the backbone's positions less prefix and suffix. */
  readonly maxTokens: number;
}

/** Texts kept in memory: about 2 KB each. */
const MOST_CACHED = 50_000;

/** Writes and tokenizes the texts of histories: whole items are dropped, oldest first, until the text fits. */
export class Texts {
  private readonly cache = new Map<string, TokenizedText>();

  constructor(
    private readonly items: readonly Item[],
    private readonly tokenizer: Tokenizer,
    private readonly settings: TextSettings,
  ) {}

  /** The text of a user's history (oldest first, at least one item). */
  user(history: ArrayLike<number>): TokenizedText {
    return this.text(history, "user");
  }

  /** The text of an item alone: a history of one. */
  item(item: number): TokenizedText {
    return this.text([item], "item");
  }

  private text(history: ArrayLike<number>, role: TextRole): TokenizedText {
    const { template, maxHistory, maxTokens } = this.settings;
    const from = Math.max(0, history.length - maxHistory);
    const shown = Array.from({ length: history.length - from }, (_, i) => history[from + i]);
    const key = `${template === "two-instructions" ? role : ""}${shown.join()}`;
    const cached = this.cache.get(key);
    if (cached) return cached;
    let text: TokenizedText | null = null;
    for (let first = 0; first < shown.length && !text; first++) {
      const items = shown.slice(first);
      const shownItems = items.map((i) => this.items[i]);
      const written = historyText(shownItems, { template, role, maxHistory });
      const ids = Uint32Array.from([...this.tokenizer.leading, ...this.tokenizer.encode(written)]);
      if (ids.length <= maxTokens) text = { ids, items };
    }
    if (!text) {
      const item = this.items[shown[shown.length - 1]];
      throw new UserError(
        `item ${item.id} ("${item.title.slice(0, 60)}"): its text alone needs more than the ${maxTokens} tokens that the backbone has room for; shorten the title or use fewer prefix tokens`,
      );
    }
    if (this.cache.size >= MOST_CACHED) this.cache.clear();
    this.cache.set(key, text);
    return text;
  }
}
