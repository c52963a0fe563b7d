import { defineConfig } from "vite";

// One script and one style sheet under fixed names: Python inlines both in a page and hashes them for its policy.
export default defineConfig({
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
