/** T×T maps and other grids of numbers: one colour scale for all panels of a figure. */
import { ticks, type Look } from "./numbers";
import { fitted, widthOf, type Box } from "./pen";
import { drawKey, keyHeight, Mosaic, reach, said, shade, type Picture, type Spot } from "./picture";
import type { MapSpec, Panel } from "./spec";

const BOTTOM = 36;
const GAP = 20;
const WIDEST = 460;
const LOOKS: readonly Look[] = ["below", "zero", "missing"];

interface Placed {
  panel: Panel;
  index: number;
  left: number;
  top: number;
  rows: number;
  columns: number;
  width: number;
  height: number;
}

function place(spec: MapSpec, width: number): { placed: Placed[]; height: number; margin: number } {
  const named = spec.panels.flatMap((panel) => panel.rows);
  const margin = named.length ? Math.min(width * 0.32, Math.max(...named.map((name) => widthOf(name, 11))) + 10) : 40;
  const titled = spec.panels.some((panel) => panel.name);
  const head = (titled ? 20 : 4) + (named.length ? 0 : 14);
  const across = named.length ? 1 : Math.max(1, Math.min(spec.panels.length, Math.floor((width + GAP) / (250 + GAP))));
  const each = (width - GAP * (across - 1)) / across;
  let top = 0;
  let lowest = 0;
  const placed = spec.panels.map((panel, index): Placed => {
    const rows = Math.max(1, panel.values.length);
    const columns = Math.max(1, ...panel.values.map((row) => row.length));
    const wide = Math.min(each - margin, named.length ? Infinity : WIDEST);
    const high = named.length ? rows * 20 : (wide * rows) / columns;
    if (index && index % across === 0) top = lowest + 8;
    const made = { panel, index, left: (index % across) * (each + GAP) + margin, top: top + head, rows, columns, width: wide, height: high };
    lowest = Math.max(lowest, made.top + high + BOTTOM);
    return made;
  });
  return { placed, height: lowest, margin };
}

export function planMap(spec: MapSpec, width: number): Picture {
  const { placed, height, margin } = place(spec, width);
  const [from, to] = reach(spec.panels.flatMap((panel) => panel.values.flat()), spec.scale);
  const looks: readonly Look[] = spec.panels.some((panel) => panel.values.some((row) => row.includes("over"))) ? [...LOOKS, "over"] : LOOKS;

  const key = [{ scale: spec.scale, ends: [from, to] as const }];

  const box = (panel: Placed, row: number, column: number): Box => {
    const [x, right] = [column, column + 1].map((at) => Math.round(panel.left + (at / panel.columns) * panel.width)) as [number, number];
    const [y, bottom] = [row, row + 1].map((at) => Math.round(panel.top + (at / panel.rows) * panel.height)) as [number, number];
    return [x, y, right - x, bottom - y];
  };

  const steps = (at: number): string => (spec.block === 1 ? String(at) : `${at * spec.block}–${(at + 1) * spec.block - 1}`);

  const spot = (panel: Placed, row: number, column: number): Spot | null => {
    const values = panel.panel.values[row];
    if (!values || column < 0 || column >= values.length) return null;
    const here = panel.panel.rows.length ? panel.panel.rows[row]! : `${spec.y} ${steps(row)}`;
    const lag = panel.panel.rows.length || spec.block > 1 ? "" : `, ${row - column} back`;
    return {
      key: `${panel.index}:${row}:${column}`,
      box: box(panel, row, column),
      said: [
        { name: panel.panel.name, text: `${here} ← ${spec.x} ${steps(column)}${lag}` },
        { name: spec.scale.label, text: said(values[column], spec.scale.kind) },
      ],
    };
  };

  return {
    height: height + keyHeight(width - margin, key, looks) + 8,

    draw(pen, palette) {
      for (const panel of placed) {
        const { left, top, rows, columns, width: wide, height: high } = panel;
        const named = panel.panel.rows.length > 0;
        if (panel.panel.name) pen.text(left, top - (named ? 8 : 22), fitted(panel.panel.name, wide, 13), { colour: palette.ink, size: 13, weight: 600 });
        const mosaic = new Mosaic();
        panel.panel.values.forEach((row, r) => row.forEach((value, c) => mosaic.add(box(panel, r, c), shade(value, from, to, palette))));
        mosaic.draw(pen);
        pen.outline([left - 0.5, top - 0.5, wide + 1, high + 1], palette.grid, 1);
        for (const at of ticks(0, columns - 1, wide / 60, "linear").filter(Number.isInteger)) {
          const x = left + ((at + 0.5) / columns) * wide;
          pen.line([[x, top + high + 1], [x, top + high + 5]], palette.muted, 1);
          pen.text(x, top + high + 17, String(at * spec.block), { colour: palette.muted, size: 11, align: "middle" });
        }
        pen.text(left + wide, top + high + 31, `${spec.x} →`, { colour: palette.muted, size: 11, align: "end" });
        if (named) {
          panel.panel.rows.forEach((name, r) =>
            pen.text(left - 8, top + ((r + 0.5) / rows) * high + 4, fitted(name, left - 8, 11), { colour: palette.ink, size: 11, align: "end" }));
          continue;
        }
        pen.text(left - 34, top - 6, `${spec.y} ↓`, { colour: palette.muted, size: 11 });
        for (const at of ticks(0, rows - 1, high / 50, "linear").filter(Number.isInteger)) {
          const y = top + ((at + 0.5) / rows) * high;
          pen.line([[left - 5, y], [left - 1, y]], palette.muted, 1);
          pen.text(left - 8, y + 4, String(at * spec.block), { colour: palette.muted, size: 11, align: "end" });
        }
      }
      drawKey(pen, palette, margin, height + 4, width - margin, key, looks);
    },

    at(x, y) {
      const panel = placed.find((one) => x >= one.left && x < one.left + one.width && y >= one.top && y < one.top + one.height);
      if (!panel) return null;
      return spot(panel, Math.floor(((y - panel.top) / panel.height) * panel.rows), Math.floor(((x - panel.left) / panel.width) * panel.columns));
    },

    move(now, right, down) {
      const first = placed[0];
      if (!now) return first ? spot(first, first.rows - 1, 0) : null;
      const [index, row, column] = now.key.split(":").map(Number) as [number, number, number];
      const panel = placed[index]!;
      return spot(panel, row + down, column + right) ?? (right && placed[index + right] ? spot(placed[index + right]!, row, 0) : null) ?? now;
    },
  };
}
