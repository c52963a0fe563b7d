/** Bars side by side on one axis, with the value written at each end. */
import { ends, finite, said, tickText, ticks } from "./numbers";
import { fitted, widthOf, type Box } from "./pen";
import type { Picture, Spot } from "./picture";
import type { BarsSpec } from "./spec";

const THICK = 18;

export function planBars(spec: BarsSpec, width: number): Picture {
  const margin = Math.min(width * 0.35, Math.max(0, ...spec.bars.map((bar) => widthOf(bar.name, 12))) + 14);
  const right = Math.min(width * 0.34, Math.max(60, ...spec.bars.map((bar) => widthOf(bar.text, 12))) + 22);
  const [from, to] = ends(spec.axis, spec.bars.map((bar) => bar.value));
  const span = width - margin - right;
  const across = (value: number): number => margin + (Math.min(1, Math.max(0, (value - from) / (to - from || 1)))) * span;
  const head = spec.rules.length ? 20 : 4;
  const boxes: Box[] = [];
  const titles: { y: number; text: string }[] = [];
  let y = head;
  let group = "";
  for (const bar of spec.bars) {
    if (bar.group !== group) {
      group = bar.group;
      y += boxes.length ? 12 : 0;
      titles.push({ y: y + 13, text: group });
      y += 19;
    }
    const end = finite(bar.value) ? across(bar.value) : margin;
    boxes.push([margin, y, Math.max(0, end - margin), THICK]);
    y += THICK + 4;
  }
  const bottom = y + 2;

  const spot = (i: number): Spot | null => {
    const bar = spec.bars[i];
    if (!bar) return null;
    const [, up] = boxes[i]!;
    const value = bar.text || said(bar.value, spec.axis.kind);
    return { key: String(i), box: [0, up - 1, width, THICK + 2], said: [{ name: `${bar.group}, ${bar.name}`, text: value, colour: bar.colour }] };
  };

  return {
    height: bottom + 36,

    draw(pen, palette) {
      for (const at of ticks(from, to, span / 70, spec.axis.kind)) {
        pen.line([[across(at), head - 2], [across(at), bottom]], palette.grid, 1);
        pen.text(across(at), bottom + 14, tickText(at, spec.axis.kind), { colour: palette.muted, size: 11, align: "middle" });
      }
      pen.text(margin, bottom + 30, spec.axis.label, { colour: palette.muted, size: 11 });
      for (const { y: up, text } of titles) pen.text(0, up, fitted(text, width, 13), { colour: palette.ink, size: 13, weight: 600 });
      spec.bars.forEach((bar, i) => {
        const [x, up, wide] = boxes[i]!;
        const colour = palette.of(bar.colour);
        pen.text(margin - 8, up + 13, fitted(bar.name, margin - 10), { colour: palette.muted, align: "end" });
        if (bar.value === null) pen.boxes([[x, up, 26, THICK]], { pattern: "hatch" });
        else if (bar.hollow) pen.outline([x + 0.75, up + 0.75, Math.max(1, wide - 1.5), THICK - 1.5], colour, 1.5);
        else pen.boxes([[x, up, Math.max(2, wide), THICK]], colour);
        let end = x + (bar.value === null ? 26 : Math.max(2, wide));
        if (bar.at_least && finite(bar.value)) {
          pen.line([[end + 2, up + THICK / 2], [end + 13, up + THICK / 2]], colour, 1.5);
          pen.line([[end + 8, up + THICK / 2 - 4], [end + 13, up + THICK / 2], [end + 8, up + THICK / 2 + 4]], colour, 1.5);
          end += 14;
        }
        pen.text(end + 6, up + 13, bar.text, { colour: palette.ink });
      });
      for (const rule of spec.rules) {
        pen.line([[across(rule.at), 14], [across(rule.at), bottom]], palette.ink, 1.25, [4, 3]);
        const near = across(rule.at) > width / 2;
        pen.text(across(rule.at) + (near ? 4 : -4), 10, rule.label, { colour: palette.ink, size: 11, align: near ? "end" : "start" });
      }
    },

    at: (_x, y) => spot(boxes.findIndex(([, up]) => y >= up && y < up + THICK + 4)),

    move: (now, right, down) => (now ? spot(Number(now.key) + (down || right)) ?? now : spot(0)),
  };
}
