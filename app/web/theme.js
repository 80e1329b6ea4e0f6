// Light and dark: as the reader's system has it, until the reader says otherwise.

import { byId } from "./dom.js";

const STORED = "shapleycam-theme";

export function wireTheme() {
  const button = byId("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = read();
  const show = () => {
    const theme = chosen ?? (system.matches ? "dark" : "light");
    document.documentElement.dataset.theme = theme;
    button.textContent = theme === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `Use ${theme === "dark" ? "light" : "dark"} colours`);
  };
  button.addEventListener("click", () => {
    chosen = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    write(chosen);
    show();
  });
  system.addEventListener("change", show);
  show();
}

function read() {
  try {
    const stored = localStorage.getItem(STORED);
    return ["light", "dark"].includes(stored) ? stored : null;
  } catch {
    return null; // a browser that keeps nothing
  }
}

function write(theme) {
  try {
    localStorage.setItem(STORED, theme);
  } catch {
    // It lasts as long as the page.
  }
}
