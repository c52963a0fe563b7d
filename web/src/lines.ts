/** Lines: what stands where, for the screen (uPlot draws the curves) and for paper (a pen draws all of it). */
import { ends, finite, look, tickText, ticks } from "./numbers";
import type { Palette } from "./palette";
import { widthOf, type Box, type Pen, type Point } from "./pen";
import type { LinesSpec, Series, Value } from "./spec";

export const DASHES: Record<Series["dash"], number[]> = { solid: [], dashed: [7, 4], dotted: [1.5, 4] };
export const LEFT = 52;
export const TOP = 26;
export const BOTTOM = 40;

export interface Frame {
  x: [number, number];
  y: [number, number];
}

export function frameOf(spec: LinesSpec): Frame {
  const xs = spec.series.flatMap((series) => series.x);
  const low = spec.x.from ?? Math.min(...xs, Infinity);
  const high = spec.x.to ?? Math.max(...xs, -Infinity);
  const x: [number, number] = low < high ? [low, high] : Number.isFinite(low) ? [low - 1, low + 1] : [0, 1];
  const shown = spec.series.flatMap((series) => [series.values, series.lower ?? [], series.upper ?? []].flat());
  const marked = spec.rules.filter((rule) => rule.across === "y").map((rule) => rule.at);
  return { x, y: ends(spec.y, [...shown, ...marked]) };
}

const NO_NAMES = 22;

/** How much room the names at the ends of the lines need; none on a narrow picture, where the legend names them. */
export function rightOf(spec: LinesSpec, width: number): number {
  const need = Math.max(0, ...spec.series.map((series) => widthOf(series.name, 12, 600))) + 14;
  return need < width * 0.2 ? Math.max(need, NO_NAMES) : NO_NAMES;
}

/** Where x has ticks; between whole numbers (steps, updates) there is nothing to mark. */
export function xTicks(spec: LinesSpec, from: number, to: number, wide: number): number[] {
  const whole = spec.series.every((series) => series.x.every(Number.isInteger));
  return ticks(from, to, wide / 70, spec.x.kind).filter((at) => !whole || Number.isInteger(at));
}

export type Across = (value: number) => number;

export interface Place {
  box: Box;
  x: Across;
  y: Across;
  width: number;
}

function labels(spec: LinesSpec, frame: Frame, place: Place): { x: number; y: number; text: string; colour: string }[] {
  if (rightOf(spec, place.width) <= NO_NAMES) return [];
  const [left, top, wide, high] = place.box;
  const found = spec.series.flatMap((series) => {
    const last = series.values.findLastIndex((value) => look(value, ...frame.y) === "inside");
    if (last < 0) return [];
    const at = place.x(series.x[last]!);
    const inMargin = at > left + wide * 0.9;
    const y = place.y(series.values[last] as number);
    return [{ x: inMargin ? left + wide + 6 : at + 6, y: inMargin ? y + 4 : y - 12, text: series.name, colour: series.colour, inMargin }];
  });
  const margin = found.filter((one) => one.inMargin).sort((a, b) => a.y - b.y);
  for (let i = 1; i < margin.length; i++) margin[i]!.y = Math.max(margin[i]!.y, margin[i - 1]!.y + 14);
  const over = (margin.at(-1)?.y ?? 0) - (top + high + 4);
  if (over > 0) {
    margin.at(-1)!.y -= over;
    for (let i = margin.length - 2; i >= 0; i--) margin[i]!.y = Math.min(margin[i]!.y, margin[i + 1]!.y - 14);
  }
  const inside: typeof found = [];
  for (const one of found.filter((label) => !label.inMargin)) {
    const clear = inside.every((other) => Math.abs(other.y - one.y) > 14 || Math.abs(other.x - one.x) > 8 + Math.max(widthOf(other.text), widthOf(one.text)));
    if (clear && one.x + widthOf(one.text) < left + wide) inside.push(one);
  }
  return [...margin, ...inside];
}

/** What is no curve: ticks, rules, marks for exact zeros and for what runs off the scale, names at the ends. */
export function drawAround(pen: Pen, palette: Palette, spec: LinesSpec, frame: Frame, place: Place): void {
  const [left, top, wide, high] = place.box;
  pen.text(0, 13, spec.y.label, { colour: palette.muted, size: 11 });
  pen.text(left + wide, top + high + 32, `${spec.x.label} →`, { colour: palette.muted, size: 11, align: "end" });
  for (const rule of spec.rules) {
    const at = rule.across === "x" ? place.x(rule.at) : place.y(rule.at);
    if (rule.across === "x" && (at < left || at > left + wide)) continue;
    if (rule.across === "y" && (at < top || at > top + high)) continue;
    if (rule.across === "x") {
      pen.line([[at, top], [at, top + high]], palette.ink, 1, [2, 3]);
      const near = at > left + wide / 2;
      if (rule.label) pen.text(at + (near ? -4 : 4), top + 10, rule.label, { colour: palette.ink, size: 11, align: near ? "end" : "start", halo: palette.paper });
    } else {
      pen.line([[left, at], [left + wide, at]], palette.ink, 1, [2, 3]);
      if (rule.label) pen.text(left + 5, at - 4, rule.label, { colour: palette.ink, size: 11, halo: palette.paper });
    }
  }
  spec.series.forEach((series, row) => {
    let free = -Infinity; // a mark now and then says it; one at each point would be a wall
    series.values.forEach((value, i) => {
      const how = look(value, ...frame.y);
      const x = place.x(series.x[i]!);
      if (how === "inside" || how === "missing" || x < left - 0.5 || x > left + wide + 0.5 || x < free) return;
      free = x + 26;
      const colour = palette.of(series.colour);
      const floor = top + high - 5 - (row % 6) * 8;
      if (how === "zero") pen.outline([x - 2, floor - 2, 4, 4], colour, 1.25);
      else if (how === "below") pen.line([[x - 3, floor - 2], [x, floor + 2], [x + 3, floor - 2]], colour, 1.25);
      else pen.line([[x - 3, top + 7], [x, top + 3], [x + 3, top + 7]], colour, 1.25);
    });
  });
  for (const label of labels(spec, frame, place)) pen.text(label.x, label.y, label.text, { colour: palette.of(label.colour), weight: 600, halo: palette.paper });
}

/** Which marks occur, for the legend. */
export function marksOf(spec: LinesSpec): string[] {
  const { y } = frameOf(spec);
  const looks = new Set(spec.series.flatMap((series) => series.values.map((value) => look(value, ...y))));
  return [
    looks.has("zero") ? "▫ exactly 0" : "",
    looks.has("below") ? "⌄ below scale" : "",
    looks.has("above") || looks.has("over") ? "⌃ above scale" : "",
    looks.has("missing") ? "gap: not measured" : "",
  ].filter(Boolean);
}

/** Points with a gap on either side, which no line would show. */
export function lonely(values: readonly Value[]): number[] {
  return values.flatMap((value, i) => (finite(value) && !finite(values[i - 1]) && !finite(values[i + 1]) ? [i] : []));
}

/** Runs of points without a gap. */
function runs(series: Series, values: readonly Value[], frame: Frame, place: Place): Point[][] {
  const found: Point[][] = [[]];
  values.forEach((value, i) => {
    if (finite(value)) {
      const kept = Math.min(frame.y[1] + (frame.y[1] - frame.y[0]), Math.max(frame.y[0] - (frame.y[1] - frame.y[0]), value));
      found.at(-1)!.push([place.x(series.x[i]!), place.y(kept)]);
    } else if (found.at(-1)!.length) found.push([]);
  });
  return found.filter((run) => run.length);
}

function clipped(points: readonly Point[], [, top, , high]: Box): Point[][] {
  const bottom = top + high;
  const inside = (y: number): boolean => y >= top - 0.01 && y <= bottom + 0.01;
  const found: Point[][] = [[]];
  points.forEach((point, i) => {
    const before = points[i - 1];
    if (before && inside(before[1]) !== inside(point[1])) {
      const edge = (inside(before[1]) ? point[1] : before[1]) < top ? top : bottom;
      const share = (edge - before[1]) / (point[1] - before[1]);
      found.at(-1)!.push([before[0] + share * (point[0] - before[0]), edge]);
      if (inside(before[1])) found.push([]);
    }
    if (inside(point[1])) found.at(-1)!.push(point);
  });
  return found.filter((run) => run.length);
}

export function drawLines(pen: Pen, palette: Palette, spec: LinesSpec, width: number): void {
  const frame = frameOf(spec);
  const box: Box = [LEFT, TOP, width - LEFT - rightOf(spec, width), spec.height - TOP - BOTTOM];
  const [left, top, wide, high] = box;
  const place: Place = {
    box,
    width,
    x: (value) => left + ((value - frame.x[0]) / (frame.x[1] - frame.x[0])) * wide,
    y: (value) => top + high - ((value - frame.y[0]) / (frame.y[1] - frame.y[0])) * high,
  };
  for (const at of ticks(...frame.y, high / 40, spec.y.kind)) {
    pen.line([[left, place.y(at)], [left + wide, place.y(at)]], palette.grid, 1);
    pen.text(left - 7, place.y(at) + 4, tickText(at, spec.y.kind), { colour: palette.muted, size: 11, align: "end" });
  }
  for (const at of xTicks(spec, ...frame.x, wide)) {
    pen.line([[place.x(at), top + high], [place.x(at), top + high + 4]], palette.muted, 1);
    pen.text(place.x(at), top + high + 17, tickText(at, spec.x.kind), { colour: palette.muted, size: 11, align: "middle" });
  }
  const kept = (y: number): number => Math.min(top + high, Math.max(top, y));
  for (const series of spec.series) {
    if (!series.lower || !series.upper) continue;
    const low = runs(series, series.lower, frame, place).flat();
    const up = runs(series, series.upper, frame, place).flat();
    pen.area([...up, ...low.reverse()].map(([x, y]): Point => [x, kept(y)]), palette.of(series.colour), 0.15);
  }
  for (const series of spec.series) {
    for (const run of runs(series, series.values, frame, place)) {
      if (run.length === 1 && clipped(run, box).length) {
        const [x, y] = run[0]!;
        pen.boxes([[x - 2.5, y - 2.5, 5, 5]], palette.of(series.colour));
      }
      for (const part of clipped(run, box)) pen.line(part, palette.of(series.colour), series.weight, DASHES[series.dash]);
    }
  }
  drawAround(pen, palette, spec, frame, place);
}
