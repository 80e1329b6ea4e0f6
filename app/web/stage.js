// The picture with its overlay: strength, what is shown, and the attribution under the pointer.

import { byId, element, plain, signed } from "./dom.js";
import { gradient } from "./colormaps.js";
import { shownAlpha } from "./settings.js";

// As the overlays of the service, which are laid over it.
const LONGEST_SIDE = 1024;
const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

export class Stage {
  #frame = byId("frame");
  #original = byId("original");
  #overlay = byId("overlay");
  #cell = byId("cell");
  #readout = byId("readout");
  #reply = null;
  #at = null;
  #turn = 0;

  constructor(settings) {
    this.settings = settings;
    this.#frame.addEventListener("pointermove", (event) => this.#point(event));
    this.#frame.addEventListener("pointerdown", (event) => this.#point(event));
    this.#frame.addEventListener("pointerleave", () => this.#unmark());
    this.#frame.addEventListener("blur", () => this.#unmark());
    this.#frame.addEventListener("keydown", (event) => this.#step(event));
    byId("alpha").addEventListener("input", (event) => settings.set({ alpha: Number(event.target.value) }));
    for (const radio of document.querySelectorAll('[name="show"]')) {
      radio.addEventListener("change", () => settings.set({ show: radio.value }));
    }
    settings.onChange((names) => {
      if (names.has("alpha") || names.has("show")) this.#blend();
    });
    this.#blend();
  }

  /** What is shown; null where nothing is explained yet. */
  get explanation() {
    return this.#reply?.explanations[0] ?? null;
  }

  /**
   * Shows a picture before anything is known of it.
   *
   * @param blob the file
   * @returns false where the browser cannot read the format, which says nothing about the service, or where the network
   *   says how bright the picture is
   */
  async showOriginal(blob) {
    this.#clear();
    const turn = ++this.#turn;
    const bitmap = (await isDeep(blob)) ? null : await createImageBitmap(blob).catch(() => null);
    // A later picture may have been faster.
    if (turn !== this.#turn) return bitmap !== null;
    if (!bitmap) {
      // Rather nothing than the picture before.
      this.#frame.hidden = true;
      return false;
    }
    const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
    this.#paint(bitmap, Math.max(1, Math.round(scale * bitmap.width)), Math.max(1, Math.round(scale * bitmap.height)));
    bitmap.close();
    return true;
  }

  /** Shows a PNG of the service as the picture, where the browser cannot show the file itself. */
  async showPng(png) {
    const image = await decoded(png);
    this.#paint(image, image.naturalWidth, image.naturalHeight);
  }

  /**
   * Shows an explanation: its overlay was made with alpha 1, and is blended here, so that its strength can change.
   *
   * @returns false where it was not wanted any more
   */
  async show(reply, signal) {
    const [explanation] = reply.explanations;
    const image = await decoded(explanation.overlay);
    if (signal.aborted) return false;
    this.#reply = reply;
    // The image that has been decoded, so that nothing flickers.
    image.id = this.#overlay.id;
    this.#overlay.replaceWith(image);
    this.#overlay = image;
    const { label } = explanation.target;
    this.#overlay.alt = `Where the evidence for ${label} lies, by ${explanation.method}`;
    this.#open(image.naturalWidth, image.naturalHeight);
    this.#frame.classList.add("explained");
    byId("viewing").hidden = false;
    byId("readout").hidden = false;
    byId("legend").style.background = gradient(this.settings.get("colormap"));
    this.#placeView();
    this.#unmark();
    this.#blend();
    showCaption(reply);
    showWarnings(explanation.warnings);
    return true;
  }

  #clear() {
    this.#reply = null;
    this.#frame.classList.remove("explained");
    this.#overlay.removeAttribute("src");
    this.#overlay.alt = "";
    this.#unmark();
    byId("caption").textContent = "";
    byId("viewing").hidden = true;
    byId("readout").hidden = true;
    showWarnings([]);
  }

  #paint(image, width, height) {
    Object.assign(this.#original, { width, height });
    const context = this.#original.getContext("2d");
    context.imageSmoothingQuality = "high";
    // The service lays transparent pictures over white.
    context.fillStyle = "#fff";
    context.fillRect(0, 0, width, height);
    context.drawImage(image, 0, 0, width, height);
    this.#open(width, height);
  }

  #open(width, height) {
    byId("empty").hidden = true;
    this.#frame.hidden = false;
    this.#frame.style.setProperty("--ratio", `${width} / ${height}`);
    this.#frame.style.setProperty("--aspect", width / height);
  }

  #blend() {
    const show = this.settings.get("show");
    const alpha = this.settings.get("alpha");
    this.#frame.dataset.show = show;
    this.#overlay.style.opacity = shownAlpha(this.settings);
    byId("alpha").value = alpha;
    byId("alpha").disabled = show !== "overlay";
    byId("alpha-value").textContent = `${Math.round(100 * alpha)}%`;
    for (const radio of document.querySelectorAll('[name="show"]')) radio.checked = radio.value === show;
  }

  /** The part of the picture that the network saw, as fractions of its sides. */
  #seen() {
    const { image, view } = this.#reply;
    const [left, top, right, bottom] = view.box;
    return {
      left: left / image.width,
      top: top / image.height,
      width: (right - left) / image.width,
      height: (bottom - top) / image.height,
    };
  }

  #placeView() {
    const seen = this.#seen();
    place(byId("view-box"), seen);
    const after = (start, size) => `${100 * Math.max(0, 1 - start - size)}%`;
    const before = (start) => `${100 * Math.max(0, start)}%`;
    const inset = [before(seen.top), after(seen.left, seen.width), after(seen.top, seen.height), before(seen.left)];
    this.#frame.style.setProperty("--seen", `inset(${inset.join(" ")})`);
  }

  #point(event) {
    if (!this.#attribution) return;
    const bounds = this.#frame.getBoundingClientRect();
    const seen = this.#seen();
    const [rows, columns] = this.#attribution.shape;
    const column = Math.floor((((event.clientX - bounds.left) / bounds.width - seen.left) / seen.width) * columns);
    const row = Math.floor((((event.clientY - bounds.top) / bounds.height - seen.top) / seen.height) * rows);
    if (row < 0 || column < 0 || row >= rows || column >= columns) this.#unmark();
    else this.#mark(row, column);
  }

  #step(event) {
    const step = STEPS[event.key];
    if (!step || !this.#attribution || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const [rows, columns] = this.#attribution.shape;
    const [row, column] = this.#at ?? strongest(this.#attribution.values);
    const isFirst = this.#at === null;
    const move = (at, by, most) => Math.min(most - 1, Math.max(0, at + (isFirst ? 0 : by)));
    this.#mark(move(row, step[0], rows), move(column, step[1], columns));
  }

  get #attribution() {
    return this.explanation?.attribution ?? null;
  }

  #mark(row, column) {
    if (this.#at && this.#at[0] === row && this.#at[1] === column) return;
    this.#at = [row, column];
    const [rows, columns] = this.#attribution.shape;
    const seen = this.#seen();
    const width = seen.width / columns;
    const height = seen.height / rows;
    place(this.#cell, { left: seen.left + column * width, top: seen.top + row * height, width, height });
    this.#cell.hidden = false;
    const [x, y] = [seen.left + (column + 0.5) * width, seen.top + (row + 0.5) * height];
    const isOff = x < 0 || y < 0 || x > 1 || y > 1;
    this.#readout.textContent = readoutOf(this.explanation, row, column) + (isOff ? ", in the margin around the picture" : "");
  }

  #unmark() {
    this.#at = null;
    this.#cell.hidden = true;
    this.#readout.textContent = "Point at the picture, or focus it and use the arrow keys, to read the attribution.";
  }
}

function place(box, { left, top, width, height }) {
  const percent = (value) => `${100 * value}%`;
  Object.assign(box.style, {
    left: percent(left), top: percent(top), width: percent(width), height: percent(height),
  });
}

/** Where the attribution is largest. */
function strongest(values) {
  let best = [0, 0];
  values.forEach((line, row) =>
    line.forEach((value, column) => {
      if (value > (values[best[0]][best[1]] ?? -Infinity)) best = [row, column];
    }),
  );
  return best;
}

function readoutOf(explanation, row, column) {
  const { attribution, efficiency, utility, target } = explanation;
  const value = attribution.values[row][column];
  const error = attribution.standard_error?.[row][column];
  const give = error === undefined || error === null ? "" : ` ± ${plain(error)}`;
  const side = value > 0 ? `for ${target.label}` : value < 0 ? `against ${target.label}` : "neither for nor against";
  const unit = efficiency ? `in units of ${utility}` : "no unit here: only the shape of the map has meaning";
  return `Row ${row + 1}, column ${column + 1}: ${signed(value)}${give} ${side} (${unit})`;
}

function showCaption(reply) {
  const { target, method, utility } = reply.explanations[0];
  const where = { crop: "The frame is what the network saw.", pad: "", stretch: "" }[reply.view.fit];
  byId("caption").replaceChildren(
    "Evidence for ", element("strong", {}, target.label), ` by ${method}, utility ${utility}, at ${reply.layer}`,
    ` of ${reply.model}. ${where}`,
  );
}

function showWarnings(warnings) {
  const list = byId("warnings");
  list.hidden = warnings.length === 0;
  list.replaceChildren(...warnings.map((warning) => element("li", {}, `${warning[0].toUpperCase()}${warning.slice(1)}.`)));
}

/** An image that can be drawn at once. */
export async function decoded(png) {
  const image = new Image();
  image.src = `data:${png.media_type};base64,${png.b64}`;
  await image.decode();
  return image;
}

/** Whether a file is a PNG of 16 bits a channel, of which each network may use a part (PNG specification, 11.2.1). */
async function isDeep(blob) {
  const head = new Uint8Array(await blob.slice(0, 25).arrayBuffer());
  return head[0] === 0x89 && head[1] === 0x50 && head[24] === 16;
}
