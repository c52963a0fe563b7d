/** One set of strokes, two papers: a canvas on the screen, SVG in downloads and print. */
import type { Palette } from "./palette";

export type Fill = string | { pattern: "hatch" | "dots" };
export type Box = readonly [x: number, y: number, width: number, height: number];
export type Point = readonly [x: number, y: number];

export interface Lettering {
  colour: string;
  size?: number;
  align?: "start" | "middle" | "end";
  weight?: number;
  /** The colour of what lies under, so that letters on a line stay legible. */
  halo?: string;
}

export interface Pen {
  boxes(boxes: readonly Box[], fill: Fill): void;
  outline(box: Box, colour: string, width: number): void;
  line(points: readonly Point[], colour: string, width: number, dash?: readonly number[]): void;
  area(points: readonly Point[], colour: string, opacity: number): void;
  /** Letters standing on the line y. */
  text(x: number, y: number, text: string, lettering: Lettering): void;
}

export const FACE = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif';
export const SIZE = 12;

const font = (size: number, weight: number): string => `${weight} ${size}px ${FACE}`;
const ruler = document.createElement("canvas").getContext("2d")!;

export function widthOf(text: string, size = SIZE, weight = 400): number {
  ruler.font = font(size, weight);
  return ruler.measureText(text).width;
}

/** The text, cut with an ellipsis where it would run past `width`. */
export function fitted(text: string, width: number, size = SIZE): string {
  if (widthOf(text, size) <= width) return text;
  let kept = [...text];
  while (kept.length > 1 && widthOf(kept.join("") + "…", size) > width) kept = kept.slice(0, -1);
  return kept.join("") + "…";
}

/** Lines of at most `width`, broken between words. */
export function wrapped(text: string, width: number, size = SIZE): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(/\s+/)) {
    const longer = line ? `${line} ${word}` : word;
    if (line && widthOf(longer, size) > width) {
      lines.push(line);
      line = word;
    } else line = longer;
  }
  return line ? [...lines, line] : lines;
}

const TILE = 6;

export class CanvasPen implements Pen {
  private readonly tiles = new Map<string, CanvasPattern | string>();

  constructor(private readonly context: CanvasRenderingContext2D, private readonly palette: Palette) {}

  private style(fill: Fill): string | CanvasPattern {
    if (typeof fill === "string") return fill;
    const known = this.tiles.get(fill.pattern);
    if (known) return known;
    const tile = document.createElement("canvas");
    tile.width = tile.height = TILE * 2;
    const brush = tile.getContext("2d")!;
    brush.scale(2, 2);
    brush.fillStyle = this.palette.paper;
    brush.fillRect(0, 0, TILE, TILE);
    if (fill.pattern === "dots") {
      brush.fillStyle = this.palette.muted;
      brush.fillRect(2, 2, 1.5, 1.5);
    } else {
      brush.strokeStyle = this.palette.hatch;
      brush.lineWidth = 1.2;
      for (const shift of [-TILE, 0, TILE]) {
        brush.beginPath();
        brush.moveTo(shift, TILE);
        brush.lineTo(shift + TILE, 0);
        brush.stroke();
      }
    }
    const made = this.context.createPattern(tile, "repeat")!;
    made.setTransform(new DOMMatrix().scale(0.5));
    this.tiles.set(fill.pattern, made);
    return made;
  }

  boxes(boxes: readonly Box[], fill: Fill): void {
    this.context.fillStyle = this.style(fill);
    for (const [x, y, width, height] of boxes) this.context.fillRect(x, y, width, height);
  }

  outline([x, y, width, height]: Box, colour: string, thick: number): void {
    this.context.setLineDash([]);
    this.context.strokeStyle = colour;
    this.context.lineWidth = thick;
    this.context.strokeRect(x, y, width, height);
  }

  private trace(points: readonly Point[]): void {
    this.context.beginPath();
    points.forEach(([x, y], i) => (i ? this.context.lineTo(x, y) : this.context.moveTo(x, y)));
  }

  line(points: readonly Point[], colour: string, width: number, dash: readonly number[] = []): void {
    this.trace(points);
    this.context.setLineDash([...dash]);
    this.context.lineJoin = "round";
    this.context.strokeStyle = colour;
    this.context.lineWidth = width;
    this.context.stroke();
  }

  area(points: readonly Point[], colour: string, opacity: number): void {
    this.trace(points);
    this.context.globalAlpha = opacity;
    this.context.fillStyle = colour;
    this.context.fill();
    this.context.globalAlpha = 1;
  }

  text(x: number, y: number, text: string, { colour, size = SIZE, align = "start", weight = 400, halo }: Lettering): void {
    this.context.font = font(size, weight);
    this.context.textAlign = align === "middle" ? "center" : align;
    this.context.textBaseline = "alphabetic";
    if (halo) {
      this.context.setLineDash([]);
      this.context.lineJoin = "round";
      this.context.strokeStyle = halo;
      this.context.lineWidth = 3.5;
      this.context.strokeText(text, x, y);
    }
    this.context.fillStyle = colour;
    this.context.fillText(text, x, y);
  }
}

const NAMESPACE = "http://www.w3.org/2000/svg";

function element(name: string, attributes: Record<string, string | number>): SVGElement {
  const made = document.createElementNS(NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
  return made;
}

const round = (value: number): number => Math.round(value * 100) / 100;
const path = (points: readonly Point[]): string => points.map(([x, y], i) => `${i ? "L" : "M"}${round(x)} ${round(y)}`).join("");

/** Builds nodes, never markup from strings, so that text stays text. */
export class SvgPen implements Pen {
  readonly root: SVGElement;
  private static made = 0;
  private readonly key = `p${SvgPen.made++}`;

  constructor(width: number, height: number, palette: Palette) {
    this.root = element("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "font-family": FACE });
    const definitions = element("defs", {});
    for (const [name, d, colour] of [["hatch", "M-1 7L7 -1M-1 1L1 -1M5 7L7 5", palette.hatch], ["dots", "M2 2.75h1.5", palette.muted]] as const) {
      const tile = element("pattern", { id: `${this.key}${name}`, width: TILE, height: TILE, patternUnits: "userSpaceOnUse" });
      tile.append(element("rect", { width: TILE, height: TILE, fill: palette.paper }));
      tile.append(element("path", { d, stroke: colour, "stroke-width": name === "dots" ? 1.5 : 1.2, fill: "none" }));
      definitions.append(tile);
    }
    this.root.append(definitions, element("rect", { width, height, fill: palette.paper }));
  }

  boxes(boxes: readonly Box[], fill: Fill): void {
    if (!boxes.length) return;
    const d = boxes.map(([x, y, w, h]) => `M${round(x)} ${round(y)}h${round(w)}v${round(h)}h${round(-w)}z`).join("");
    this.root.append(element("path", { d, fill: typeof fill === "string" ? fill : `url(#${this.key}${fill.pattern})` }));
  }

  outline([x, y, width, height]: Box, colour: string, thick: number): void {
    this.root.append(element("rect", { x: round(x), y: round(y), width: round(width), height: round(height), fill: "none", stroke: colour, "stroke-width": thick }));
  }

  line(points: readonly Point[], colour: string, width: number, dash: readonly number[] = []): void {
    const made = element("path", { d: path(points), fill: "none", stroke: colour, "stroke-width": width, "stroke-linejoin": "round" });
    if (dash.length) made.setAttribute("stroke-dasharray", dash.join(" "));
    this.root.append(made);
  }

  area(points: readonly Point[], colour: string, opacity: number): void {
    this.root.append(element("path", { d: `${path(points)}z`, fill: colour, "fill-opacity": opacity }));
  }

  text(x: number, y: number, text: string, { colour, size = SIZE, align = "start", weight = 400, halo }: Lettering): void {
    const made = element("text", { x: round(x), y: round(y), fill: colour, "font-size": size, "text-anchor": align, "font-weight": weight, "xml:space": "preserve" });
    if (halo) for (const [name, value] of [["stroke", halo], ["stroke-width", "3.5"], ["stroke-linejoin", "round"], ["paint-order", "stroke"]] as const) made.setAttribute(name, value);
    made.textContent = text;
    this.root.append(made);
  }
}
