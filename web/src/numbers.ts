/** Numbers as people read them: ticks, read-outs. */
import type { Axis, ScaleKind, Value } from "./spec";

const RAISED: Record<string, string> = {
  "-": "⁻", "0": "⁰", "1": "¹", "2": "²", "3": "³", "4": "⁴", "5": "⁵", "6": "⁶", "7": "⁷", "8": "⁸", "9": "⁹",
};

const minus = (text: string): string => text.replace("-", "−");

export function plain(value: number, digits = 3): string {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) return minus(value.toExponential(1).replace("e+", "e"));
  if (size >= 1000) return minus(Math.round(value).toLocaleString("en").replaceAll(",", " "));
  return minus(String(Number(value.toPrecision(digits))));
}

/** A power of ten given by its logarithm, as a tick: 0.01, 1, 10⁻¹². */
export function power(exponent: number): string {
  if (!Number.isInteger(exponent)) return plain(10 ** exponent, 6);
  if (exponent >= -3 && exponent <= 3) return minus(String(Number((10 ** exponent).toPrecision(1))));
  return "10" + [...String(exponent)].map((digit) => RAISED[digit] ?? digit).join("");
}

/** A value in a read-out; a logarithm keeps one decimal: 10^−12.3. */
export function said(value: Value | undefined, kind: ScaleKind): string {
  if (value === null || value === undefined) return "not measured";
  if (value === "zero") return "exactly 0";
  if (value === "over") return "infinite";
  if (kind === "linear") return plain(value);
  return value > -3 && value < 4 ? plain(10 ** value) : `10^${minus(value.toFixed(1))}`;
}

function spacing(span: number, count: number, steps: readonly number[]): number {
  const rough = span / Math.max(1, count);
  const size = 10 ** Math.floor(Math.log10(rough));
  return (steps.find((step) => step * size >= rough) ?? 10) * size;
}

/** Where ticks stand between two ends: round numbers, or powers of ten. */
export function ticks(from: number, to: number, count: number, kind: ScaleKind): number[] {
  if (!(to > from)) return [from];
  if (kind === "log10" && to - from < 3) {
    // Under three decades, powers of ten alone would be too few; under two thirds of one, so would 1, 2, 5.
    if (to - from < 0.7) return ticks(10 ** from, 10 ** to, count, "linear").map((at) => Math.log10(at));
    const digits = to - from < 1.6 ? [1, 2, 5] : [1, 3];
    const found: number[] = [];
    for (let decade = Math.floor(from); decade <= to; decade++) found.push(...digits.map((digit) => decade + Math.log10(digit)));
    return found.filter((at) => at >= from - 1e-9 && at <= to + 1e-9);
  }
  const steps = kind === "log10" ? [1, 2, 3, 5, 10] : [1, 2, 5, 10];
  const step = kind === "log10" ? Math.max(1, spacing(to - from, count, steps)) : spacing(to - from, count, steps);
  const found: number[] = [];
  for (let i = Math.ceil(from / step - 1e-9); i * step <= to + step * 1e-9; i++) found.push(Number((i * step).toPrecision(12)));
  return found;
}

export function tickText(value: number, kind: ScaleKind): string {
  return kind === "log10" ? power(Number(value.toFixed(9))) : plain(value, 6);
}

export const finite = (value: Value | undefined): value is number => typeof value === "number";

/** The ends of an axis: as given, else from the values, with a little air. */
export function ends(axis: Axis, values: Iterable<Value>): [number, number] {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (!finite(value)) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  if (low > high) [low, high] = axis.kind === "log10" ? [-3, 0] : [0, 1];
  if (low === high) [low, high] = axis.kind === "log10" ? [low - 1, high + 1] : [Math.min(0, low), high || 1];
  const air = (high - low) * 0.04;
  return [axis.from ?? low - (axis.kind === "linear" && low >= 0 && low < air ? low : air), axis.to ?? high + air];
}

/** Beside the numbers there are four more things a value can be, and each looks different. */
export type Look = "inside" | "below" | "above" | "zero" | "over" | "missing";

export function look(value: Value | undefined, from: number, to: number): Look {
  if (value === null || value === undefined) return "missing";
  if (value === "zero") return "zero";
  if (value === "over") return "over";
  if (value < from) return "below";
  return value > to ? "above" : "inside";
}
