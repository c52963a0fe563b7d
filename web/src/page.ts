/** The page's own controls: light or dark, copying a command, where the reader is. */
import { readPalette } from "./palette";

function themeButton(): void {
  const home = document.querySelector<HTMLElement>("[data-theme-home]");
  if (!home) return;
  const root = document.documentElement;
  const button = document.createElement("button");
  button.type = "button";
  const dark = (): boolean => (root.dataset["theme"] ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const name = (): void => void (button.textContent = dark() ? "Light" : "Dark");
  button.addEventListener("click", () => {
    root.dataset["theme"] = dark() ? "light" : "dark";
    name();
    readPalette();
  });
  name();
  home.append(button);
}

function copyButtons(): void {
  for (const block of document.querySelectorAll<HTMLElement>("pre.command")) {
    const text = block.textContent;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.addEventListener("click", () => {
      void navigator.clipboard?.writeText(text).then(() => {
        button.textContent = "Copied";
        setTimeout(() => (button.textContent = "Copy"), 1500);
      });
    });
    block.after(button);
    const holder = document.createElement("div");
    holder.className = "copy";
    block.replaceWith(holder);
    holder.append(block, button);
  }
}

function markPlace(): void {
  const links = new Map([...document.querySelectorAll<HTMLAnchorElement>("nav a[href^='#']")].map((link) => [link.hash.slice(1), link]));
  const inView = new Set<string>();
  const observer = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (entry.isIntersecting) inView.add(entry.target.id);
        else inView.delete(entry.target.id);
      }
      const here = [...links.keys()].find((id) => inView.has(id));
      for (const [id, link] of links) {
        if (id === here) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
      }
    },
    { rootMargin: "-10% 0px -60% 0px" },
  );
  for (const id of links.keys()) {
    const section = document.getElementById(id);
    if (section) observer.observe(section);
  }
}

export function furnish(): void {
  themeButton();
  copyButtons();
  markPlace();
}
