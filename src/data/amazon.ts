// Amazon reviews, the edition of 2018: reviews X_5.json.gz (reviewerID, asin, unixReviewTime) and metadata
// meta_X.json.gz (asin, title, brand, category[]), JSON lines. Most keys are optional in both.
import { UserError } from "../files/user-error.ts";
import { lastCategory } from "./clean.ts";
import { type JsonRecord, readJsonLines } from "./json-lines.ts";
import { Catalog, InteractionLog, idOf, type RawData, RecordCounter, timeOf } from "./raw.ts";
import { type ReadProgress, TextFile } from "./text-file.ts";

/** Reads a pair. Brand is `brand`, the category the most special entry of `category` (see `lastCategory`). */
export async function readAmazon2018(
  reviewsPath: string,
  metadataPath: string,
  name: string,
  onProgress?: ReadProgress,
): Promise<RawData> {
  const log = new InteractionLog();
  const reviews = new TextFile(reviewsPath, onProgress);
  const reviewCounter = new RecordCounter(reviews);
  await readJsonLines(
    reviews,
    reviewCounter,
    (record) => {
      refuse2023(record, reviewsPath);
      const user = idOf(record.reviewerID);
      const item = idOf(record.asin);
      const time = timeOf(record.unixReviewTime) ?? timeOf(record.reviewTime && `${record.reviewTime} UTC`);
      if (!user) return "no reviewerID";
      if (!item) return "no asin";
      if (time === undefined) return "no unixReviewTime";
      log.add(user, item, time);
      return undefined;
    },
    (line) => refuse2014(line, reviewsPath),
  );
  const reviewReport = reviewCounter.finish();

  const catalog = new Catalog(log);
  const metadata = new TextFile(metadataPath, onProgress);
  const metadataCounter = new RecordCounter(metadata);
  await readJsonLines(
    metadata,
    metadataCounter,
    (record) => {
      refuse2023(record, metadataPath);
      const item = idOf(record.asin);
      if (!item) return "no asin";
      const category = Array.isArray(record.category) ? lastCategory(record.category) : record.category;
      catalog.add(item, record.title, record.brand, category);
      return undefined;
    },
    (line) => refuse2014(line, metadataPath),
  );
  return {
    name,
    format: "amazon-2018",
    ...log.columns(),
    catalog: catalog.items,
    unusedItems: catalog.unused,
    files: [reviewReport, metadataCounter.finish()],
  };
}

/** Lines of the 2014 edition's metadata are Python literals: {'asin': '...'}. */
function refuse2014(line: string, path: string): void {
  if (/^\s*\{\s*u?'/.test(line)) {
    throw new UserError(
      `${path} holds Python literals, as the metadata of the 2014 edition of the Amazon data does; expected JSON lines: use the 2018 edition (meta_X.json.gz)`,
    );
  }
}

function refuse2023(record: JsonRecord, path: string): void {
  if (record.asin === undefined && record.reviewerID === undefined && record.parent_asin !== undefined) {
    throw new UserError(
      `${path} has parent_asin, as the 2023 edition of the Amazon data does; expected the 2018 edition (reviewerID, asin, unixReviewTime)`,
    );
  }
}
