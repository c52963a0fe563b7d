/** Draws every figure of a page from the JSON beside it, and gives the page its few controls. */
import "uplot/dist/uPlot.min.css";
import "./style/page.css";
import "./style/figure.css";
import { h, render } from "preact";
import { Figure } from "./figure";
import { furnish } from "./page";
import { onPaper } from "./save";
import type { FigureSpec } from "./spec";

const PRINT_WIDTH = 660;

function start(): void {
  const drawn: { stage: HTMLElement; spec: FigureSpec }[] = [];
  for (const stage of document.querySelectorAll<HTMLElement>("[data-figure]")) {
    const block = document.getElementById(stage.dataset["figure"] ?? "");
    if (!block) continue;
    const spec = JSON.parse(block.textContent) as FigureSpec;
    render(h(Figure, { spec }), stage);
    drawn.push({ stage, spec });
  }
  // Paper gets vectors in the colours of paper, whatever the screen shows.
  addEventListener("beforeprint", () => {
    for (const { stage, spec } of drawn) {
      const sheet = document.createElement("div");
      sheet.className = "printed";
      sheet.append(onPaper(spec, PRINT_WIDTH, false));
      stage.append(sheet);
    }
  });
  addEventListener("afterprint", () => document.querySelectorAll(".printed").forEach((sheet) => sheet.remove()));
  furnish();
}

start();
