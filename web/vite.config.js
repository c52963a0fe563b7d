import { readFileSync } from "node:fs";
import { defineConfig } from "vite";

const WITHIN = ["preact", "@preact/signals", "uplot"];

/** Every page carries the bundle, so the bundle carries the licences of what is in it. */
const licences = {
  name: "licences",
  generateBundle(_options, bundle) {
    const texts = WITHIN.map((name) => `${name}\n${readFileSync(`node_modules/${name}/LICENSE`, "utf8").trim()}`);
    const notice = `/*! Contains:\n\n${texts.join("\n\n")}\n*/\n`;
    for (const piece of Object.values(bundle)) if (piece.type === "chunk") piece.code = notice + piece.code;
  },
};

// One script and one style sheet under fixed names: Python inlines both in a page and hashes them for its policy.
export default defineConfig({
  plugins: [licences],
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  build: {
    outDir: "../src/throughtime/view/assets",
    emptyOutDir: true,
    target: "es2022",
    sourcemap: false,
    reportCompressedSize: false,
    modulePreload: false,
    lib: {
      entry: "src/main.ts",
      formats: ["iife"],
      name: "throughtime",
      fileName: () => "figures.js",
      cssFileName: "figures",
    },
  },
});
