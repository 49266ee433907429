/** The names of `candidates` that differ least from `name` (edit distance, case ignored), the nearest first. */
export function nearestNames(name: string, candidates: Iterable<string>, count = 3): string[] {
  const wanted = name.toLowerCase();
  const best: { candidate: string; distance: number }[] = [];
  for (const candidate of candidates) {
    const worst = best.length < count ? Number.POSITIVE_INFINITY : best[best.length - 1].distance;
    // The distance is at least the difference of the lengths.
    if (Math.abs(candidate.length - name.length) >= worst) continue;
    const distance = editDistance(wanted, candidate.toLowerCase());
    if (distance >= worst) continue;
    const at = best.findIndex((entry) => entry.distance > distance);
    best.splice(at < 0 ? best.length : at, 0, { candidate, distance });
    if (best.length > count) best.pop();
  }
  return best.map(({ candidate }) => candidate);
}

/** Levenshtein's distance. */
function editDistance(a: string, b: string): number {
  const row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    let diagonal = row[0]++;
    for (let j = 1; j <= b.length; j++) {
      const up = row[j];
      row[j] = Math.min(row[j] + 1, row[j - 1] + 1, diagonal + Number(a[i - 1] !== b[j - 1]));
      diagonal = up;
    }
  }
  return row[b.length];
}
