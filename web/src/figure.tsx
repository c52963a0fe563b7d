/** A figure: picture, legend with read-out, downloads. Python has set its title, its words and its table around it. */
import { useSignal } from "@preact/signals";
import { useEffect, useMemo, useRef } from "preact/hooks";
import { Drawn } from "./drawn";
import { DASHES, marksOf } from "./lines";
import { palette } from "./palette";
import type { Said } from "./picture";
import { Plot } from "./plot";
import { saveCsv, savePng, saveSvg } from "./save";
import type { FigureSpec } from "./spec";

interface Entry {
  name: string;
  colour: string | null;
  dash: readonly number[];
  weight: number;
}

/** What can be shown and hidden: lines by their name, rows of a strip. */
function entriesOf(spec: FigureSpec): Entry[] {
  if (spec.kind === "lines") return spec.series.map((series) => ({ name: series.name, colour: series.colour, dash: DASHES[series.dash], weight: series.weight }));
  if (spec.kind === "strip") return spec.rows.map((row) => ({ name: row.name, colour: null, dash: [], weight: 0 }));
  return [];
}

/** 10^−12.3 with the exponent raised. */
function Number10({ text }: { text: string }) {
  const [base, exponent] = text.split("10^");
  return exponent === undefined ? <>{text}</> : <>{base}10<sup>{exponent}</sup></>;
}

export function Figure({ spec }: { spec: FigureSpec }) {
  const home = useRef<HTMLDivElement>(null);
  const width = useSignal(0);
  const hidden = useSignal<ReadonlySet<string>>(new Set());
  const spoken = useSignal<Said[]>([]);
  const colours = palette.value;

  useEffect(() => {
    const element = home.current;
    if (!element) return;
    const measure = (): void => {
      const next = Math.floor(element.clientWidth);
      if (next > 0) width.value = next;
    };
    measure();
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    return () => observer.disconnect();
  }, []);

  const left = hidden.value;
  const shown = useMemo(
    () => (spec.kind === "lines" && left.size ? { ...spec, series: spec.series.filter((series) => !left.has(series.name)) } : spec),
    [spec, left],
  );
  const entries = entriesOf(spec);
  const toggle = (name: string): void => {
    const next = new Set(left);
    if (!next.delete(name) && next.size < entries.length - 1) next.add(name);
    hidden.value = next;
  };
  const said = spoken.value;
  const reading = (name: string): Said | undefined => said.find((one) => one.name === name);
  const loose = said.filter((one) => !entries.some((entry) => entry.name === one.name));

  return (
    <div class="stage" ref={home}>
      {width.value > 0 && (shown.kind === "lines"
        ? <Plot spec={shown} width={width.value} spoken={spoken} />
        : <Drawn spec={shown} width={width.value} hidden={left} spoken={spoken} />)}
      <div class="foot">
      <div class="legend">
        {entries.map((entry) => (
          <button type="button" key={entry.name} aria-pressed={!left.has(entry.name)} title="show or hide" onClick={() => toggle(entry.name)}>
            {entry.colour && (
              <svg width="26" height="10" aria-hidden="true">
                <line x1="1" x2="25" y1="5" y2="5" stroke={colours.of(entry.colour)} stroke-width={entry.weight} stroke-dasharray={entry.dash.join(" ")} />
              </svg>
            )}
            <span class="name">{entry.name}</span>
            {reading(entry.name) && <output><Number10 text={reading(entry.name)!.text} /></output>}
          </button>
        ))}
        {spec.kind === "lines" && marksOf(spec).map((mark) => <span class="mark" key={mark}>{mark}</span>)}
        <div class="reading" aria-live="polite">
          {loose.map((one) => (
            <span key={one.name}>{one.name} <b><Number10 text={one.text} /></b></span>
          ))}
        </div>
      </div>
        <div class="save" role="group" aria-label={`Save "${spec.title}"`}>
          <button type="button" onClick={() => void savePng(spec)}>PNG</button>
          <button type="button" onClick={() => saveSvg(spec)}>SVG</button>
          <button type="button" onClick={() => saveCsv(spec)}>CSV</button>
        </div>
      </div>
    </div>
  );
}
