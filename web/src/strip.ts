/** One real sequence with what the gates did at each step: stripes under words, or one column a step. */
import { ticks, type Look } from "./numbers";
import { fitted, widthOf, type Box } from "./pen";
import { drawKey, keyHeight, Mosaic, reach, said, shade, type Shades, type Picture, type Spot } from "./picture";
import type { StripSpec } from "./spec";

const STRIPE = 6;
const NAMED_STRIPE = 10; // high enough for its name beside it
const NAMED = 640; // from this width on there is room for names
const LETTERS = 15;
const WORD = 13;
const LOOKS: readonly Look[] = ["below", "zero", "missing"];

/** One key for all rows on the same scale, with their names. */
function keysOf(spec: StripSpec): Shades[] {
  const keys = new Map<string, { shades: Shades; rows: string[] }>();
  for (const row of spec.rows) {
    const name = `${row.scale.label}|${row.scale.from}|${row.scale.to}`;
    const there = keys.get(name);
    if (there) there.rows.push(row.name);
    else keys.set(name, { shades: { scale: row.scale, ends: reach(row.values, row.scale) }, rows: [row.name] });
  }
  return [...keys.values()].map(({ shades, rows }) => ({ ...shades, scale: { ...shades.scale, label: fitted(`${rows.join(", ")}: ${shades.scale.label}`, 280, 11) } }));
}

export function planStrip(whole: StripSpec, width: number, hidden: ReadonlySet<string>): Picture {
  const spec = { ...whole, rows: whole.rows.filter((row) => !hidden.has(row.name)) };
  const rows = spec.rows.map((row) => ({ ...row, ends: reach(row.values, row.scale) }));
  const text = spec.layout === "text";
  const named = !text || width >= NAMED;
  const letters = text ? 10 : 11;
  const margin = named ? Math.min(width * 0.3, Math.max(30, ...rows.map((row) => widthOf(row.name, letters))) + 10) : 0;
  const tall = !text ? 20 : named ? NAMED_STRIPE : STRIPE;
  const boxes: Box[] = []; // of each word, letters and stripes together
  let height = 0;
  if (text) {
    const line = LETTERS + 4 + rows.length * (tall + 1) + 14;
    let x = margin;
    for (const word of spec.words) {
      const need = Math.min(width - margin, Math.max(10, widthOf(word, WORD)));
      if (x > margin && x + need > width) {
        x = margin;
        height += line;
      }
      boxes.push([x, height, need, line - 10]);
      x += need + 5;
    }
    height += line;
  } else {
    const wide = (width - margin) / Math.max(1, spec.words.length);
    height = rows.length * (tall + 1) + 34;
    spec.words.forEach((_, i) => {
      const [x, right] = [i, i + 1].map((at) => Math.round(margin + at * wide)) as [number, number];
      boxes.push([x, 0, right - x, rows.length * (tall + 1)]);
    });
  }
  const keys = keysOf(spec);
  const top = height;
  height += keyHeight(width - margin, keys, LOOKS);

  const spot = (index: number): Spot | null => {
    const box = boxes[index];
    if (!box) return null;
    return {
      key: String(index),
      box,
      said: [
        { name: `${spec.step} ${index}`, text: spec.words[index] ?? "" },
        ...rows.map((row) => ({ name: row.name, text: said(row.values[index], row.scale.kind) })),
      ],
    };
  };

  return {
    height,

    draw(pen, palette) {
      const mosaic = new Mosaic();
      boxes.forEach(([x, y, wide], i) => {
        if (text) pen.text(x, y + LETTERS - 2, fitted(spec.words[i]!, wide + 1, WORD), { colour: palette.ink, size: WORD });
        rows.forEach((row, r) =>
          mosaic.add([x, y + (text ? LETTERS + 3 : 0) + r * (tall + 1), wide, tall], shade(row.values[i], row.ends[0], row.ends[1], palette)));
      });
      mosaic.draw(pen);
      const names = (top: number): void => rows.forEach((row, r) =>
        pen.text(margin - 8, top + r * (tall + 1) + tall / 2 + 4, fitted(row.name, margin - 8, letters), { colour: palette.muted, size: letters, align: "end" }));
      if (text && named) for (const y of new Set(boxes.map((box) => box[1]))) names(y + LETTERS + 3);
      if (!text) {
        const bottom = rows.length * (tall + 1);
        names(0);
        for (const at of ticks(0, spec.words.length - 1, (width - margin) / 60, "linear").filter(Number.isInteger)) {
          const [x, , wide] = boxes[at]!;
          pen.line([[x + wide / 2, bottom], [x + wide / 2, bottom + 4]], palette.muted, 1);
          pen.text(x + wide / 2, bottom + 16, String(at), { colour: palette.muted, size: 11, align: "middle" });
        }
        pen.text(width, bottom + 29, `${spec.step} →`, { colour: palette.muted, size: 11, align: "end" });
      }
      drawKey(pen, palette, margin, top, width - margin, keys, LOOKS);
    },

    at(x, y) {
      return spot(boxes.findIndex(([left, up, wide, high]) => x >= left && x < left + wide + 5 && y >= up && y < up + high));
    },

    move(now, right, down) {
      if (!now) return spot(0);
      const index = Number(now.key);
      if (!down || !text) return spot(index + right) ?? now;
      const [x, y] = boxes[index]!;
      const lines = [...new Set(boxes.map((box) => box[1]))];
      const line = lines[lines.indexOf(y) + down];
      if (line === undefined) return now;
      const there = boxes.map((box, i) => ({ box, i })).filter(({ box }) => box[1] === line);
      const nearest = there.reduce((best, one) => (Math.abs(one.box[0] - x) < Math.abs(best.box[0] - x) ? one : best));
      return spot(nearest.i);
    },
  };
}
