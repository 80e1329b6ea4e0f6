// The picture that is asked about: chosen, dropped, pasted, or one of the examples.

import { Unreachable } from "./client.js";
import { byId, element } from "./dom.js";

// File, words. Photographs in the public domain (CC0, NASA), as the scikit-image package has them.
export const EXAMPLES = [
  ["chelsea.jpg", "a cat"],
  ["coffee.jpg", "a cup of coffee"],
  ["rocket.jpg", "a rocket"],
  ["astronaut.jpg", "an astronaut"],
];
const FOLDER = "page/examples/";

/**
 * Wires all the ways in which a picture comes.
 *
 * @param take called with {blob, name, source, path}
 * @param takeExample called with the name of an example
 */
export function wirePictures(take, takeExample) {
  byId("file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    if (file) take({ blob: file, name: file.name, source: "file" });
    // So that the same file can be chosen once more.
    event.target.value = "";
  });
  document.addEventListener("paste", (event) => {
    const [file] = event.clipboardData?.files ?? [];
    if (!file) return;
    event.preventDefault();
    // Clipboards call every picture image.png, whatever it was.
    take({ blob: file, name: file.name || "image.png", source: "pasted" });
  });
  wireDrop(take);
  byId("examples").replaceChildren(...EXAMPLES.map(([file, words]) => exampleButton(file, words, takeExample)));
}

/** Pictures may be dropped anywhere. */
function wireDrop(take) {
  let depth = 0;
  const carriesFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const enter = (steps) => (event) => {
    if (carriesFiles(event)) depth = Math.max(0, depth + steps);
    byId("drop").classList.toggle("over", depth > 0);
  };
  document.addEventListener("dragenter", enter(1));
  document.addEventListener("dragleave", enter(-1));
  document.addEventListener("dragover", (event) => {
    if (carriesFiles(event)) event.preventDefault();
  });
  document.addEventListener("drop", (event) => {
    enter(-depth)(event);
    const [file] = event.dataTransfer?.files ?? [];
    if (!file) return;
    event.preventDefault();
    take({ blob: file, name: file.name, source: "file" });
  });
}

function exampleButton(file, words, takeExample) {
  const image = element("img", { src: FOLDER + file, alt: words, width: 72, height: 54 });
  return element("li", {}, element("button", { type: "button", "data-example": file, onclick: () => takeExample(file) }, image));
}

/** One of the examples. */
export async function example(file) {
  if (!EXAMPLES.some(([name]) => name === file)) throw new Error(`There is no example “${file}”`);
  const path = FOLDER + file;
  const response = await fetch(path).catch(() => {
    throw new Unreachable();
  });
  if (!response.ok) throw new Error(`The example cannot be had: ${response.status} ${response.statusText}`);
  return { blob: await response.blob(), name: file, source: "example", path };
}

/** Says which picture it is. */
export function showName(picture) {
  const size = picture.blob.size;
  const bytes = size < 1e6 ? `${Math.max(1, Math.round(size / 1e3))} kB` : `${(size / 1e6).toFixed(1)} MB`;
  const note = byId("picture-name");
  note.hidden = false;
  note.replaceChildren(element("strong", {}, picture.name), ` · ${bytes}${picture.source === "pasted" ? " · pasted" : ""}`);
  for (const button of document.querySelectorAll("[data-example]")) {
    button.setAttribute("aria-pressed", String(picture.source === "example" && button.dataset.example === picture.name));
  }
}
