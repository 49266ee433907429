/** Growth curves as an SVG: a panel a curve, both axes logarithmic, so that a straight line is a power. */
import { scaleLog } from "d3-scale";
import { area, line } from "d3-shape";

const PANEL = { width: 360, height: 260, left: 62, right: 16, top: 34, bottom: 46 };
const COLUMNS = 2;
const TITLE = 58;

const escapeText = (text) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);

/** A number as an axis shows it: 0.5, 20, 4k. */
function short(value) {
  if (value >= 1000) return `${+(value / 1000).toPrecision(3)}k`;
  return String(+value.toPrecision(3));
}

/** 1, 2 and 5 of every decade within the domain. */
function ticks([from, to]) {
  const all = [];
  for (let power = Math.floor(Math.log10(from)); 10 ** power <= to; power++)
    all.push(...[1, 2, 5].map((digit) => digit * 10 ** power));
  return all.filter((tick) => tick >= from && tick <= to);
}

/** One curve: the medians as a line, least to most as a band, and the line of proportional growth through its last point. */
function panel({ axis, points }, x0, y0) {
  const { width, height, left, right, top, bottom } = PANEL;
  const values = points.map(({ value }) => value);
  const x = scaleLog([values[0], values.at(-1)], [left, width - right]);
  const low = Math.min(...points.map(({ least }) => least)) / 1.3;
  const high = Math.max(...points.map(({ most }) => most)) * 1.3;
  const y = scaleLog([low, high], [height - bottom, top]);
  const band = area(
    (p) => x(p.value),
    (p) => y(p.least),
    (p) => y(p.most),
  )(points);
  const median = line(
    (p) => x(p.value),
    (p) => y(p.median),
  )(points);
  const last = points.at(-1);
  const start = Math.max(values[0], (last.value * low) / last.median);
  const proportional = [start, last.value].map((value) => [x(value), y((last.median * value) / last.value)]);
  const parts = [`<g transform="translate(${x0} ${y0})">`];
  for (const tick of ticks([low, high]))
    parts.push(
      `<line class="grid" x1="${left}" x2="${width - right}" y1="${y(tick)}" y2="${y(tick)}"/>`,
      `<text x="${left - 6}" y="${y(tick) + 4}" text-anchor="end">${short(tick)}</text>`,
    );
  for (const value of values)
    parts.push(
      `<line class="grid" x1="${x(value)}" x2="${x(value)}" y1="${top}" y2="${height - bottom}"/>`,
      `<text x="${x(value)}" y="${height - bottom + 16}" text-anchor="middle">${short(value)}</text>`,
    );
  parts.push(
    `<path class="proportional" d="${line()(proportional)}"/>`,
    `<path class="band" d="${band}"/>`,
    `<path class="median" d="${median}"/>`,
    ...points.map((p) => `<circle cx="${x(p.value)}" cy="${y(p.median)}" r="3"/>`),
    `<text class="axis" x="${(left + width - right) / 2}" y="${height - 8}" text-anchor="middle">${escapeText(axis)}</text>`,
    `<text class="axis" x="${left}" y="${top - 10}">ms a training step</text>`,
    "</g>",
  );
  return parts.join("\n");
}

/** The report of bench/growth.js (its JSON) as an SVG document. */
export function drawGrowth({ title, date, settings, rounds, results }) {
  const rows = Math.ceil(results.length / COLUMNS);
  const [width, height] = [COLUMNS * PANEL.width, TITLE + rows * PANEL.height];
  const panels = results.map((curve, i) =>
    panel(curve, (i % COLUMNS) * PANEL.width, TITLE + Math.floor(i / COLUMNS) * PANEL.height),
  );
  const [adapter, ...toggles] = settings.split("; ");
  const about = `${date}; ${adapter}`;
  const legend = `${toggles.join("; ")}; median of ${rounds} rounds, band: least to most; dashed: in proportion`;
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">
<style>
svg { background: #fff; font: 11px sans-serif; fill: #333 }
.title { font-size: 14px; font-weight: bold }
.axis { font-size: 12px }
.grid { stroke: #ddd }
.band { fill: #4878a8; fill-opacity: .2 }
.median { fill: none; stroke: #4878a8; stroke-width: 2 }
.proportional { fill: none; stroke: #999; stroke-dasharray: 4 4 }
circle { fill: #4878a8 }
</style>
<text class="title" x="12" y="20">${escapeText(title)}</text>
<text x="12" y="36">${escapeText(about)}</text>
<text x="12" y="50">${escapeText(legend)}</text>
${panels.join("\n")}
</svg>
`;
}
