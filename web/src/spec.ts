/**
 * What a figure is, as Python writes it (view/figures.py) and this bundle draws it.
 *
 * A number is finite, or one of the three things a picture must keep apart from it: "zero" (exactly zero, on a
 * logarithmic axis), "over" (beyond what a float holds), null (not measured). On a "log10" axis the values ARE the
 * logarithms, so that a gradient of 1e-3000 is a number as any other.
 */
export type Value = number | "zero" | "over" | null;

export type ScaleKind = "linear" | "log10";

interface Common {
  title: string;
  /** Which derivative, units, dtype, how many sequences; stands under the picture and in its downloads. */
  note: string;
  /** The name of its downloads, without an ending. */
  file: string;
}

export interface Axis {
  label: string;
  kind: ScaleKind;
  from: number | null;
  to: number | null;
}

/** A line across a plot that says where something stands: a threshold, the task's lag. */
export interface Rule {
  across: "x" | "y";
  at: number;
  label: string;
}

export interface Series {
  name: string;
  colour: string;
  dash: "solid" | "dashed" | "dotted";
  weight: number;
  x: number[];
  values: Value[];
  lower: Value[] | null;
  upper: Value[] | null;
}

export interface LinesSpec extends Common {
  kind: "lines";
  x: Axis;
  y: Axis;
  series: Series[];
  rules: Rule[];
  height: number;
}

export interface Panel {
  name: string;
  /** Names of the rows; empty: rows are numbered like the columns. */
  rows: string[];
  /** A row may be shorter than the widest: what it lacks cannot be (a later step does not look back from an earlier). */
  values: Value[][];
}

export interface MapSpec extends Common {
  kind: "map";
  x: string;
  y: string;
  /** How many steps stand behind one square. */
  block: number;
  scale: Axis;
  panels: Panel[];
}

export interface StripRow {
  name: string;
  scale: Axis;
  values: Value[];
}

export interface StripSpec extends Common {
  kind: "strip";
  /** "text": the steps are words, set as text; "grid": one column a step. */
  layout: "text" | "grid";
  step: string;
  words: string[];
  rows: StripRow[];
}

export interface Bar {
  name: string;
  group: string;
  colour: string;
  hollow: boolean;
  value: Value;
  /** The value is a lower bound: the measure did not look further. */
  at_least: boolean;
  text: string;
}

export interface BarsSpec extends Common {
  kind: "bars";
  axis: Axis;
  bars: Bar[];
  rules: Rule[];
}

export type FigureSpec = LinesSpec | MapSpec | StripSpec | BarsSpec;
