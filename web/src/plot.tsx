/** A lines figure on the screen: uPlot draws the curves and follows the pointer, lines.ts draws what is around them. */
import type { Signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import { finite, said, tickText, ticks } from "./numbers";
import { BOTTOM, DASHES, drawAround, frameOf, LEFT, lonely, rightOf, TOP, xTicks } from "./lines";
import { palette } from "./palette";
import { CanvasPen, FACE } from "./pen";
import type { Said } from "./picture";
import type { LinesSpec, Series } from "./spec";

const FEW = 30; // a main line of fewer points shows each

/** One column of x for all series; a series has nothing (undefined, not a gap) where only others have a point. */
function aligned(series: readonly Series[]): uPlot.AlignedData {
  const xs = [...new Set(series.flatMap((one) => one.x))].sort((a, b) => a - b);
  const index = new Map(xs.map((x, i) => [x, i]));
  const columns = series.flatMap((one) => {
    const spread = (values: Series["values"] | null): (number | null | undefined)[] => {
      const column: (number | null | undefined)[] = new Array(xs.length).fill(undefined);
      values?.forEach((value, i) => (column[index.get(one.x[i]!)!] = finite(value) ? value : null));
      return column;
    };
    return [spread(one.values), spread(one.lower), spread(one.upper)];
  });
  return [xs, ...columns] as uPlot.AlignedData;
}

/** What each series says at x: its value there, or at its last point before. */
function readOut(spec: LinesSpec, x: number): Said[] {
  const entries = spec.series.map((series): Said => {
    const at = series.x.findLastIndex((one) => one <= x);
    return { name: series.name, colour: series.colour, text: at < 0 ? "–" : said(series.values[at], spec.y.kind) };
  });
  return [{ name: spec.x.label, text: tickText(x, spec.x.kind) }, ...entries];
}

export function Plot({ spec, width, spoken }: { spec: LinesSpec; width: number; spoken: Signal<Said[]> }) {
  const home = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const colours = palette.value;

  useEffect(() => {
    const element = home.current;
    if (!element) return;
    const frame = frameOf(spec);
    const data = aligned(spec.series);
    const xs = data[0];
    const axis = { stroke: colours.muted, font: `11px ${FACE}`, ticks: { stroke: colours.muted, width: 1, size: 4 } };
    const dots = spec.series.map((series) => {
      const shown = series.x.length < FEW && series.weight >= 2 ? series.values.flatMap((value, i) => (finite(value) ? [i] : [])) : lonely(series.values);
      return shown.map((i) => xs.indexOf(series.x[i]!));
    });
    const made = new uPlot(
      {
        width,
        height: spec.height,
        padding: [TOP, rightOf(spec, width), 14, 0],
        legend: { show: false },
        cursor: { drag: { x: true, y: false, setScale: true }, points: { size: 7 }, y: false },
        scales: { x: { time: false, range: (_, low, high) => (low <= xs[0]! && high >= xs.at(-1)! ? frame.x : [low, high]) }, y: { range: () => frame.y } },
        axes: [
          { ...axis, size: BOTTOM - 14, grid: { show: false }, splits: (_, __, low, high) => xTicks(spec, low, high, width - LEFT), values: (_, marks) => marks.map((mark) => tickText(mark, spec.x.kind)) },
          { ...axis, size: LEFT, ticks: { show: false }, grid: { stroke: colours.grid, width: 1 }, splits: () => ticks(...frame.y, (spec.height - TOP - BOTTOM) / 40, spec.y.kind), values: (_, marks) => marks.map((mark) => tickText(mark, spec.y.kind)) },
        ],
        series: [
          {},
          ...spec.series.flatMap((series, i): uPlot.Series[] => {
            const stroke = colours.of(series.colour);
            const hidden: uPlot.Series = { stroke: "transparent", width: 0, points: { show: false } };
            return [
              { stroke, width: series.weight, dash: DASHES[series.dash], points: { show: true, filter: () => dots[i]!, size: 5, fill: stroke, stroke } },
              hidden,
              hidden,
            ];
          }),
        ],
        bands: spec.series.flatMap((series, i) => (series.lower && series.upper ? [{ series: [i * 3 + 3, i * 3 + 2] as [number, number], fill: `color-mix(in srgb, ${colours.of(series.colour)} 15%, transparent)` }] : [])),
        hooks: {
          draw: [
            (self) => {
              const ratio = devicePixelRatio;
              const context = self.ctx;
              context.save();
              context.scale(ratio, ratio);
              const { left, top, width: wide, height: high } = self.bbox;
              drawAround(new CanvasPen(context, colours), colours, spec, frame, {
                box: [left / ratio, top / ratio, wide / ratio, high / ratio],
                width,
                x: (value) => self.valToPos(value, "x", true) / ratio,
                y: (value) => self.valToPos(value, "y", true) / ratio,
              });
              context.restore();
            },
          ],
          setCursor: [
            (self) => {
              const at = self.cursor.idx;
              spoken.value = at === null || at === undefined ? [] : readOut(spec, self.data[0][at]!);
            },
          ],
        },
      },
      data,
      element,
    );
    plot.current = made;
    return () => {
      made.destroy();
      plot.current = null;
    };
  }, [spec, width, colours]);

  const onKeyDown = (event: KeyboardEvent): void => {
    const self = plot.current;
    const xs = self?.data[0];
    const step = { ArrowRight: 1, ArrowLeft: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity }[event.key];
    if (!self || !xs || step === undefined) return;
    event.preventDefault();
    const next = Math.min(xs.length - 1, Math.max(0, (self.cursor.idx ?? (step > 0 ? -1 : xs.length)) + step));
    self.setCursor({ left: self.valToPos(xs[next]!, "x"), top: 0 });
  };

  return (
    <div
      class="canvas lines"
      ref={home}
      tabIndex={0}
      role="img"
      aria-label={`${spec.title}. Arrow keys read the values; the numbers stand in the table under the picture.`}
      onKeyDown={onKeyDown}
      onBlur={() => plot.current?.setCursor({ left: -10, top: -10 })}
    />
  );
}
