/** A map, strip or bars on the screen: drawn on a canvas, read by pointer and by arrow keys. */
import { useSignal, type Signal } from "@preact/signals";
import { useEffect, useMemo, useRef } from "preact/hooks";
import { planBars } from "./bars";
import { planMap } from "./map";
import { palette } from "./palette";
import { CanvasPen } from "./pen";
import type { Picture, Said, Spot } from "./picture";
import type { BarsSpec, MapSpec, StripSpec } from "./spec";
import { planStrip } from "./strip";

type DrawnSpec = MapSpec | StripSpec | BarsSpec;

function plan(spec: DrawnSpec, width: number, hidden: ReadonlySet<string>): Picture {
  if (spec.kind === "map") return planMap(spec, width);
  return spec.kind === "strip" ? planStrip(spec, width, hidden) : planBars(spec, width);
}

const ARROWS: Record<string, readonly [number, number]> = {
  ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1],
};

export function Drawn({ spec, width, hidden, spoken }: { spec: DrawnSpec; width: number; hidden: ReadonlySet<string>; spoken: Signal<Said[]> }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const spot = useSignal<Spot | null>(null);
  const colours = palette.value;
  const picture = useMemo(() => plan(spec, width, hidden), [spec, width, hidden]);

  useEffect(() => {
    const element = canvas.current;
    if (!element) return;
    const ratio = devicePixelRatio;
    element.width = Math.round(width * ratio);
    element.height = Math.round(picture.height * ratio);
    const context = element.getContext("2d")!;
    context.scale(ratio, ratio);
    context.clearRect(0, 0, width, picture.height);
    picture.draw(new CanvasPen(context, colours), colours);
    spot.value = null;
  }, [picture, colours]);

  const show = (next: Spot | null): void => {
    spot.value = next;
    spoken.value = next?.said ?? [];
  };
  const onPointer = (event: PointerEvent): void => show(picture.at(event.offsetX, event.offsetY));
  const onKeyDown = (event: KeyboardEvent): void => {
    const arrow = ARROWS[event.key];
    if (!arrow) return;
    event.preventDefault();
    show(picture.move(spot.value, ...arrow));
  };
  const box = spot.value?.box;

  return (
    <div
      class="canvas"
      tabIndex={0}
      role="img"
      aria-label={`${spec.title}. Arrow keys read the values; the numbers stand in the table under the picture.`}
      style={{ height: `${picture.height}px` }}
      onKeyDown={onKeyDown}
      onBlur={() => show(null)}
    >
      <canvas ref={canvas} style={{ width: `${width}px`, height: `${picture.height}px` }} onPointerMove={onPointer} onPointerDown={onPointer} onPointerLeave={() => show(null)} />
      {box && <div class="spot" style={{ left: `${box[0] - 1}px`, top: `${box[1] - 1}px`, width: `${box[2] + 2}px`, height: `${box[3] + 2}px` }} />}
    </div>
  );
}
