/** A figure as files: SVG, PNG, CSV. Everything is made here, nothing is fetched. */
import { planBars } from "./bars";
import { DASHES, drawLines, marksOf } from "./lines";
import { planMap } from "./map";
import { paperPalette, type Palette } from "./palette";
import { SvgPen, widthOf, wrapped, type Pen } from "./pen";
import type { FigureSpec, LinesSpec, Value } from "./spec";
import { planStrip } from "./strip";

const MARGIN = 20;

/** The names of the lines, for paper, where no legend stands beside. Returns its height. */
function drawLegend(pen: Pen, palette: Palette, spec: LinesSpec, left: number, top: number, width: number): number {
  let x = left;
  let y = top;
  const entry = (need: number): void => {
    if (x > left && x + need > left + width) {
      x = left;
      y += 18;
    }
  };
  for (const series of spec.series) {
    const need = 34 + widthOf(series.name, 12) + 12;
    entry(need);
    pen.line([[x, y + 8], [x + 24, y + 8]], palette.of(series.colour), series.weight, DASHES[series.dash]);
    pen.text(x + 30, y + 12, series.name, { colour: palette.ink });
    x += need;
  }
  for (const mark of marksOf(spec)) {
    const need = widthOf(mark, 11) + 16;
    entry(need);
    pen.text(x, y + 12, mark, { colour: palette.muted, size: 11 });
    x += need;
  }
  return y + 22 - top;
}

/** Pens draw at the origin; this one stands further in. */
function shifted(pen: Pen, dx: number, dy: number): Pen {
  return {
    boxes: (boxes, fill) => pen.boxes(boxes.map(([x, y, w, h]) => [x + dx, y + dy, w, h] as const), fill),
    outline: ([x, y, w, h], colour, width) => pen.outline([x + dx, y + dy, w, h], colour, width),
    line: (points, colour, width, dash) => pen.line(points.map(([x, y]) => [x + dx, y + dy] as const), colour, width, dash),
    area: (points, colour, opacity) => pen.area(points.map(([x, y]) => [x + dx, y + dy] as const), colour, opacity),
    text: (x, y, text, lettering) => pen.text(x + dx, y + dy, text, lettering),
  };
}

/** The whole figure on paper: title, picture, legend, note. `framed` is false in print, where the page has the words. */
export function onPaper(spec: FigureSpec, width: number, framed = true): SVGElement {
  const palette = paperPalette();
  const margin = framed ? MARGIN : 0;
  const inner = width - 2 * margin;
  const title = framed ? wrapped(spec.title, inner, 15) : [];
  const note = framed ? wrapped(spec.note, inner, 11) : [];
  let height = margin + title.length * 20 + (framed ? 8 : 0);
  const strokes: ((pen: Pen) => void)[] = [];
  const top = height;
  title.forEach((line, i) => strokes.push((pen) => pen.text(margin, margin + 15 + i * 20, line, { colour: palette.ink, size: 15, weight: 600 })));
  if (spec.kind === "lines") {
    strokes.push((pen) => drawLines(shifted(pen, margin, top), palette, spec, inner));
    height += spec.height + 4;
    const under = height;
    const blank: Pen = { boxes: () => {}, outline: () => {}, line: () => {}, area: () => {}, text: () => {} };
    strokes.push((pen) => void drawLegend(pen, palette, spec, margin, under, inner));
    height += drawLegend(blank, palette, spec, margin, under, inner);
  } else {
    const picture = spec.kind === "map" ? planMap(spec, inner) : spec.kind === "strip" ? planStrip(spec, inner, new Set()) : planBars(spec, inner);
    strokes.push((pen) => picture.draw(shifted(pen, margin, top), palette));
    height += picture.height;
  }
  const foot = height + 8;
  note.forEach((line, i) => strokes.push((pen) => pen.text(margin, foot + 11 + i * 15, line, { colour: palette.muted, size: 11 })));
  height = foot + note.length * 15 + margin;
  const pen = new SvgPen(width, Math.ceil(height), palette);
  for (const stroke of strokes) stroke(pen);
  return pen.root;
}

const number = (value: Value | undefined): string =>
  value === null || value === undefined ? "" : value === "zero" ? "-inf" : value === "over" ? "inf" : String(value);

/** Text of others: quoted, and never read as a formula by a spreadsheet. */
const words = (text: string): string => `"${(/^[=+\-@\t\r]/.test(text) ? `'${text}` : text).replaceAll('"', '""')}"`;

/** The numbers behind a figure; an exact zero under a logarithm is -inf, what was not measured is empty. */
export function csv(spec: FigureSpec): string {
  const scaled = (label: string, kind: string): string => words(kind === "log10" ? `log10 of ${label}` : label);
  const rows: string[][] = [];
  if (spec.kind === "lines") {
    rows.push([words("series"), words(spec.x.label), scaled(spec.y.label, spec.y.kind), words("lower"), words("upper")]);
    for (const series of spec.series) {
      series.x.forEach((x, i) => rows.push([words(series.name), String(x), number(series.values[i]), number(series.lower?.[i]), number(series.upper?.[i])]));
    }
  } else if (spec.kind === "map") {
    rows.push([words("panel"), words(spec.y), words(spec.x), scaled(spec.scale.label, spec.scale.kind)]);
    for (const panel of spec.panels) {
      panel.values.forEach((row, r) =>
        row.forEach((value, c) => rows.push([words(panel.name), panel.rows[r] === undefined ? String(r * spec.block) : words(panel.rows[r]), String(c * spec.block), number(value)])));
    }
  } else if (spec.kind === "strip") {
    rows.push([words("index"), words(spec.step), ...spec.rows.map((row) => scaled(row.name, row.scale.kind))]);
    spec.words.forEach((word, i) => rows.push([String(i), words(word), ...spec.rows.map((row) => number(row.values[i]))]));
  } else {
    rows.push([words("group"), words("name"), scaled(spec.axis.label, spec.axis.kind), words("lower bound")]);
    for (const bar of spec.bars) rows.push([words(bar.group), words(bar.name), number(bar.value), bar.at_least ? "yes" : "no"]);
  }
  return rows.map((row) => row.join(",")).join("\r\n") + "\r\n";
}

function download(content: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const WIDTH = 960;
const svgText = (spec: FigureSpec): string => `<?xml version="1.0" encoding="UTF-8"?>\n${new XMLSerializer().serializeToString(onPaper(spec, WIDTH))}`;

export function saveCsv(spec: FigureSpec): void {
  download(new Blob(["\ufeff", csv(spec)], { type: "text/csv;charset=utf-8" }), `${spec.file}.csv`);
}

export function saveSvg(spec: FigureSpec): void {
  download(new Blob([svgText(spec)], { type: "image/svg+xml" }), `${spec.file}.svg`);
}

export async function savePng(spec: FigureSpec): Promise<void> {
  const address = URL.createObjectURL(new Blob([svgText(spec)], { type: "image/svg+xml" }));
  const image = new Image();
  image.src = address;
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth * 2;
  canvas.height = image.naturalHeight * 2;
  canvas.getContext("2d")!.drawImage(image, 0, 0, canvas.width, canvas.height);
  URL.revokeObjectURL(address);
  const content = await new Promise<Blob | null>((done) => canvas.toBlob(done, "image/png"));
  if (content) download(content, `${spec.file}.png`);
}
