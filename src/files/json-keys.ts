/**
 * The first key that some object of a JSON text holds twice, or null. JSON.parse keeps the last of them silently, so
 * two readers of one file could see different content.
 *
 * @param text JSON that JSON.parse has accepted.
 */
export function repeatedKey(text: string): string | null {
  // One entry an open bracket: the keys seen in that object, or null for an array.
  const open: (Set<string> | null)[] = [];
  let keyNext = false;
  for (let i = 0; i < text.length; i++) {
    const character = text[i];
    if (character === '"') {
      const start = i++;
      while (text[i] !== '"') i += text[i] === "\\" ? 2 : 1;
      const keys = open.at(-1);
      if (keyNext && keys) {
        const key = JSON.parse(text.slice(start, i + 1)) as string;
        if (keys.has(key)) return key;
        keys.add(key);
      }
      keyNext = false;
    } else if (character === "{" || character === "[") {
      open.push(character === "{" ? new Set() : null);
      keyNext = character === "{";
    } else if (character === "}" || character === "]") {
      open.pop();
      keyNext = false;
    } else if (character === ",") keyNext = open.at(-1) != null;
  }
  return null;
}
