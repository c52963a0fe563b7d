/** A picture laid out at a width: how high it is, how it is drawn, and what stands where. */
import { finite, look, said, tickText, ticks, type Look } from "./numbers";
import type { Palette } from "./palette";
import { widthOf, type Box, type Fill, type Pen, type Point } from "./pen";
import type { Axis, Value } from "./spec";

export interface Said {
  name: string;
  text: string;
  colour?: string;
}

/** One place a reader can point at. */
export interface Spot {
  key: string;
  box: Box;
  said: Said[];
}

export interface Picture {
  height: number;
  draw(pen: Pen, palette: Palette): void;
  at(x: number, y: number): Spot | null;
  /** The place to the right (or left, up, down) of `from`; the first one where there is no `from`. */
  move(from: Spot | null, right: number, down: number): Spot | null;
}

export function shade(value: Value | undefined, from: number, to: number, palette: Palette): Fill {
  const fills: Record<Look, () => Fill> = {
    missing: () => ({ pattern: "hatch" }),
    zero: () => ({ pattern: "dots" }),
    below: () => palette.below,
    above: () => palette.ramp(1),
    over: () => palette.ink,
    inside: () => palette.ramp(((value as number) - from) / (to - from || 1)),
  };
  return fills[look(value, from, to)]();
}

/** Boxes gathered by their colour, so that a map of thousands is a few strokes. */
export class Mosaic {
  private readonly gathered = new Map<string, { fill: Fill; boxes: Box[] }>();

  add(box: Box, fill: Fill): void {
    const key = typeof fill === "string" ? fill : fill.pattern;
    const there = this.gathered.get(key);
    if (there) there.boxes.push(box);
    else this.gathered.set(key, { fill, boxes: [box] });
  }

  draw(pen: Pen): void {
    for (const { fill, boxes } of this.gathered.values()) pen.boxes(boxes, fill);
  }
}

const RAMP = 190;
const SCALE_HEIGHT = 44;
const SWATCH = 18;
const NAMES: Partial<Record<Look, string>> = { below: "below scale", zero: "exactly 0", missing: "not measured", over: "infinite" };

/** A colour scale with its ends found. */
export interface Shades {
  scale: Axis;
  ends: readonly [number, number];
}

/** Where the scales and the looks that are no colour of them stand, one after another as there is room. */
function placeKey(width: number, scales: readonly Shades[], looks: readonly Look[]): { scales: Point[]; looks: Point[]; height: number } {
  let x = 0;
  let y = 0;
  const next = (need: number, high: number): Point => {
    if (x && x + need > width) {
      x = 0;
      y += high;
    }
    const place: Point = [x, y];
    x += need;
    return place;
  };
  const first = scales.map((one) => next(Math.max(RAMP, widthOf(one.scale.label, 11)) + 26, SCALE_HEIGHT + 4));
  const swatches = looks.reduce((sum, name) => sum + SWATCH + widthOf(NAMES[name]!, 11) + 14, 0);
  if (x && x + swatches > width) {
    x = 0;
    y += SCALE_HEIGHT + 2;
  } else if (x) y += 14;
  const second = looks.map((name) => next(SWATCH + widthOf(NAMES[name]!, 11) + 14, SWATCH));
  return { scales: first, looks: second, height: Math.max(y + SWATCH, (first.at(-1)?.[1] ?? 0) + SCALE_HEIGHT) };
}

/** The room `drawKey` takes. */
export function keyHeight(width: number, scales: readonly Shades[], looks: readonly Look[]): number {
  return placeKey(width, scales, looks).height;
}

/** The key of the colour scales, with the looks that are no colour of them. */
export function drawKey(pen: Pen, palette: Palette, left: number, top: number, width: number, scales: readonly Shades[], looks: readonly Look[]): void {
  const place = placeKey(width, scales, looks);
  scales.forEach(({ scale, ends }, i) => {
    const [x, y] = [left + place.scales[i]![0], top + place.scales[i]![1]];
    const mosaic = new Mosaic();
    for (let at = 0; at < RAMP; at += 2) mosaic.add([x + at, y + 14, 2, 10], palette.ramp(at / RAMP));
    pen.text(x, y + 9, scale.label, { colour: palette.muted, size: 11 });
    mosaic.draw(pen);
    for (const at of ticks(ends[0], ends[1], RAMP / 40, scale.kind)) {
      const mark = x + ((at - ends[0]) / (ends[1] - ends[0] || 1)) * RAMP;
      pen.line([[mark, y + 24], [mark, y + 27]], palette.muted, 1);
      const align = mark < x + 12 ? "start" : mark > x + RAMP - 12 ? "end" : "middle";
      pen.text(mark, y + 38, tickText(at, scale.kind), { colour: palette.muted, size: 11, align });
    }
  });
  const fills: Partial<Record<Look, Fill>> = { below: palette.below, zero: { pattern: "dots" }, missing: { pattern: "hatch" }, over: palette.ink };
  looks.forEach((name, i) => {
    const [x, y] = [left + place.looks[i]![0], top + place.looks[i]![1]];
    pen.boxes([[x, y, 12, 10]], fills[name]!);
    pen.outline([x, y, 12, 10], palette.grid, 1);
    pen.text(x + SWATCH, y + 9, NAMES[name]!, { colour: palette.muted, size: 11 });
  });
}

export function reach(values: Iterable<Value>, scale: Axis): [number, number] {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (!finite(value)) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  if (low > high) [low, high] = [scale.kind === "log10" ? -1 : 0, scale.kind === "log10" ? 0 : 1];
  return [scale.from ?? low, scale.to ?? Math.max(high, low + 1e-9)];
}

export { said };
