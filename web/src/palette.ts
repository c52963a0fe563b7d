/** Colours: the page's own (CSS variables), and the one ramp of the maps; both safe for colour-blind readers. */
import { signal } from "@preact/signals";

export interface Palette {
  dark: boolean;
  paper: string;
  ink: string;
  muted: string;
  grid: string;
  below: string;
  hatch: string;
  /** A colour by its name in a figure: "c0" … "c7", "ink", "muted". */
  of(name: string): string;
  /** 0 … 1 on the ramp. */
  ramp(share: number): string;
}

// Lightness rises or falls all the way, so that the ramp also reads in grey; light pages end dark, dark pages bright.
const LIGHT = ["#fbf6d8", "#dcebbf", "#a9d8ba", "#6cc0bf", "#3d9bbd", "#2c70b0", "#26458f", "#1a1f5c"];
const DARK = ["#1a2747", "#1d4069", "#20608b", "#2683a0", "#3fa9ab", "#79cba9", "#bfe5ac", "#fbf8cc"];

const parts = (hex: string): number[] => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

function mix(stops: readonly string[], share: number): string {
  const place = Math.min(1, Math.max(0, share)) * (stops.length - 1);
  const left = Math.min(stops.length - 2, Math.floor(place));
  const [a, b] = [parts(stops[left]!), parts(stops[left + 1]!)];
  return `rgb(${a.map((value, i) => Math.round(value + (b[i]! - value) * (place - left))).join(",")})`;
}

function read(element: Element, dark: boolean): Palette {
  const style = getComputedStyle(element);
  const of = (name: string): string => style.getPropertyValue(`--${name}`).trim() || style.getPropertyValue("--ink").trim();
  return {
    dark,
    paper: of("paper"), ink: of("ink"), muted: of("muted"), grid: of("grid"), below: of("below"), hatch: of("hatch"),
    of,
    ramp: (share) => mix(dark ? DARK : LIGHT, share),
  };
}

const prefersDark = matchMedia("(prefers-color-scheme: dark)");

function isDark(): boolean {
  const chosen = document.documentElement.dataset["theme"];
  return chosen ? chosen === "dark" : prefersDark.matches;
}

/** The colours of the page as it stands; every picture redraws when they change. */
export const palette = signal<Palette>(read(document.documentElement, isDark()));

export function readPalette(): void {
  palette.value = read(document.documentElement, isDark());
}

prefersDark.addEventListener("change", readPalette);

/** The colours of paper, for downloads and print, whatever the screen shows. */
export function paperPalette(): Palette {
  const probe = document.createElement("div");
  probe.className = "on-paper";
  document.body.append(probe);
  const style = getComputedStyle(probe);
  const values = new Map<string, string>();
  const live = read(probe, false);
  for (const name of ["paper", "ink", "muted", "grid", "below", "hatch", ...Array.from({ length: 8 }, (_, i) => `c${i}`)]) {
    values.set(name, style.getPropertyValue(`--${name}`).trim());
  }
  probe.remove();
  const of = (name: string): string => values.get(name) || values.get("ink") || "#000";
  return { ...live, paper: of("paper"), ink: of("ink"), muted: of("muted"), grid: of("grid"), below: of("below"), hatch: of("hatch"), of };
}
