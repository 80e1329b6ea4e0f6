// Explanations side by side: methods, utilities or targets of one picture, cut out of the sheet of /v1/compare.

import { announce, byId, element, oneDecimal, percent } from "./dom.js";
import { FIGURES } from "./results.js";
import { requestFields } from "./settings.js";
import { drawSheet } from "./sheet.js";

const MOST_CELLS = 64;
const MOST_TARGETS = 5;
// A browser has read a file by then that it is to save.
const KEPT_MS = 60_000;
// What the paper's figures lay side by side.
const PRESETS = [
  ["Methods", { methods: ["gradcam", "hirescam", "gradcam-e", "layercam", "xgradcam", "gradcam++", "shapleycam", "shapleycam-h", "shapleycam-e", "randomcam"] }],
  ["Utilities", { methods: ["gradcam", "shapleycam"], utilities: ["pre-softmax", "post-softmax", "log-softmax", "rest"] }],
  ["Targets", { methods: ["gradcam", "shapleycam"] }],
];

export class Compare {
  #box = byId("compare");
  #cells = null;
  #asked = "";
  #predictions = [];

  /**
   * @param run asks for a comparison, and calls a function with {reply, headers}, its sheet and what was asked
   * @param open shows one explanation of it by itself
   */
  constructor(settings, choices, run, open) {
    Object.assign(this, { settings, choices, run, open });
    settings.onChange((names) => {
      if (["methods", "utilities", "targets"].some((name) => names.has(name))) this.#showCount();
      this.#showStale();
    });
  }

  /** Takes note of the classes that can be targets. */
  know(predictions) {
    this.#predictions = predictions;
    if (this.#box.childElementCount) this.#showTargets();
  }

  /** Forgets a comparison that is of another picture or network. */
  forget() {
    this.#cells = null;
    byId("comparison")?.replaceChildren();
  }

  /** Builds the view, once the service has said what there is. */
  build() {
    const { methods, utilities } = this.choices;
    this.#box.replaceChildren(
      element(
        "form", { class: "card pick", onsubmit: (event) => this.#submit(event) },
        element("h2", {}, "Side by side"),
        element(
          "div", { class: "presets", role: "group", "aria-label": "As in the paper" },
          element("span", { class: "hint" }, "As in the paper:"),
          ...PRESETS.map(([words, changes]) =>
            element("button", { type: "button", onclick: () => this.#preset(words, changes) }, words),
          ),
        ),
        this.#boxes("methods", "Methods", methods.map(({ name, description }) => [name, name, description])),
        this.#boxes("utilities", "Utilities", utilities.map(({ name, description }) => [name, name, description])),
        element("div", { id: "pick-targets" }),
        element(
          "div", { class: "buttons" },
          element("button", { type: "submit", class: "primary", id: "run-compare" }, "Compare"),
          element("p", { class: "hint", id: "cell-count" }),
        ),
      ),
      element("div", { id: "comparison" }),
    );
    this.#showTargets();
    this.#showCount();
  }

  #boxes(name, legend, options) {
    const chosen = this.settings.get(name);
    return element(
      "fieldset", { class: "boxes", "data-name": name },
      element("legend", {}, legend),
      ...options.map(([value, words, title]) =>
        element(
          "label", { title },
          element("input", { type: "checkbox", value, checked: chosen.includes(value), onchange: () => this.#read(name) }),
          element("span", {}, words),
        ),
      ),
    );
  }

  #showTargets() {
    const known = this.#predictions.slice(0, MOST_TARGETS).map(({ index, label, probability }) => [
      String(index), `${label} (${percent(probability)})`,
    ]);
    const listed = new Set(["predicted", "least-likely", ...known.slice(1).map(([value]) => value)]);
    const others = this.settings.get("targets").filter((value) => !listed.has(value));
    const options = [
      // The first one by its name, once it is known.
      ["predicted", known.length ? `predicted: ${known[0][1]}` : "the predicted class"],
      ...known.slice(1),
      ...others.map((value) => [value, this.choices.label(value)]),
      ["least-likely", "the least likely class"],
    ];
    byId("pick-targets").replaceChildren(this.#boxes("targets", "Classes", options));
  }

  #read(name) {
    const boxes = this.#box.querySelectorAll(`[data-name="${name}"] input:checked`);
    this.settings.set({ [name]: [...boxes].map(({ value }) => value) });
  }

  #preset(words, changes) {
    const second = this.#predictions[1];
    const several = words === "Targets";
    const targets = ["predicted", ...(several && second ? [String(second.index)] : []), ...(several ? ["least-likely"] : [])];
    this.settings.set({ utilities: ["rest"], ...changes, targets });
    for (const name of ["methods", "utilities", "targets"]) {
      for (const box of this.#box.querySelectorAll(`[data-name="${name}"] input`)) {
        box.checked = this.settings.get(name).includes(box.value);
      }
    }
    byId("run-compare").focus();
  }

  #showCount() {
    const note = byId("cell-count");
    if (!note) return;
    const cells = ["methods", "utilities", "targets"].reduce((all, name) => all * this.settings.get(name).length, 1);
    const isPossible = cells >= 1 && cells <= MOST_CELLS;
    byId("run-compare").disabled = !isPossible;
    note.textContent = cells === 0
      ? "Choose at least one method, one utility and one class."
      : `${cells} ${cells === 1 ? "picture" : "pictures"}${isPossible ? "" : `; at most ${MOST_CELLS}`}.`;
  }

  /** Says so where what is shown is not what is chosen any more. */
  #showStale() {
    const chosen = JSON.stringify(requestFields(this.settings, "compare", this.choices.takes));
    const isStale = this.#cells !== null && chosen !== this.#asked;
    byId("comparison")?.classList.toggle("stale", isStale);
    const note = byId("stale");
    if (note) note.hidden = !isStale;
  }

  #submit(event) {
    event.preventDefault();
    return this.run((answer, sheet, asked) => this.#take(answer, sheet, asked));
  }

  #take({ reply, headers }, sheet, asked) {
    const layout = headers.get("X-Sheet");
    if (!layout) throw new Error("The reply has lost its header X-Sheet on the way");
    const grid = JSON.parse(layout);
    this.#asked = asked;
    this.#cells = reply.explanations.map((explanation, at) => ({
      explanation,
      at,
      row: Math.floor(at / grid.columns),
      left: grid.left + (at % grid.columns) * grid.across,
      top: grid.top + Math.floor(at / grid.columns) * grid.down,
      width: grid.width,
      height: grid.height,
    }));
    this.#show(reply, sheet, "none");
    announce(`${this.#cells.length} explanations side by side.`);
  }

  #show(reply, sheet, order) {
    const rows = byRow(this.#cells);
    const sorted = order === "none" ? rows : rows.map((row) => [...row].sort(by(order)));
    const choose = element(
      "select", { id: "sort", onchange: (event) => this.#show(reply, sheet, event.target.value) },
      element("option", { value: "none" }, "as asked"),
      ...FIGURES.map(([name, words, more]) =>
        element("option", { value: name, selected: name === order }, `${words}, ${more ? "highest" : "lowest"} first`),
      ),
    );
    const hadFocus = document.activeElement?.id === "sort";
    byId("comparison").replaceChildren(
      element(
        "div", { class: "bar" },
        element("label", { for: "sort" }, "Sort by"), choose,
        element("button", { type: "button", onclick: () => this.#download(reply, sheet, sorted, order) }, "Download as PNG"),
      ),
      element("p", { id: "stale", class: "hint", hidden: true }, "Made with other settings than those that are chosen now."),
      ...sorted.map((row) => this.#row(row, sheet)),
    );
    this.#showStale();
    if (hadFocus) choose.focus();
  }

  #row(row, sheet) {
    const { target } = row[0].explanation;
    return element(
      "section", { class: "row" },
      element("h3", {}, target.label, element("small", {}, ` ${percent(target.probability)}, class ${target.index}`)),
      element("ol", { class: "cells" }, ...row.map((cell) => this.#cell(cell, sheet))),
    );
  }

  #cell(cell, sheet) {
    const { explanation, left, top, width, height } = cell;
    const { method, utility, target, metrics, warnings } = explanation;
    const canvas = element("canvas", { width, height, role: "img", "aria-label": `Evidence for ${target.label} by ${method}, ${utility}` });
    canvas.getContext("2d").drawImage(sheet, left, top, width, height, 0, 0, width, height);
    const figures = FIGURES.slice(1, 4).map(([name, words]) => `${words} ${figure(metrics?.[name])}`);
    return element(
      "li", {},
      element(
        "figure", {},
        canvas,
        element(
          "figcaption", {},
          element("strong", {}, method), ` ${utility}`,
          element("span", { class: "adcc" }, `ADCC ${figure(metrics?.adcc)}`),
          element("span", { class: "hint" }, figures.join(", ")),
          ...warnings.map((warning) => element("span", { class: "warning" }, `${warning}.`)),
          element("button", { type: "button", class: "link", onclick: () => this.open(explanation) }, "Open",
            element("span", { class: "unseen" }, ` ${method}, ${utility}, ${target.label}`)),
        ),
      ),
    );
  }

  /** As asked, the service's own sheet; in another order, the same pictures drawn anew. */
  async #download(reply, sheet, rows, order) {
    const drawn = () => new Promise((resolve) => drawSheet(sheet, rows, reply).toBlob(resolve, "image/png"));
    const file = order === "none" ? fileOf(reply.sheet) : await drawn();
    // Of data: addresses browsers save only short ones.
    const href = URL.createObjectURL(file);
    element("a", { href, download: "comparison.png" }).click();
    setTimeout(() => URL.revokeObjectURL(href), KEPT_MS);
  }
}

const fileOf = ({ media_type: type, b64 }) =>
  new Blob([Uint8Array.from(atob(b64), (character) => character.charCodeAt(0))], { type });

const figure = (value) => (value === null || value === undefined ? "undefined" : oneDecimal(value));

/** What is undefined comes last. */
function by(order) {
  const more = FIGURES.find(([name]) => name === order)[2];
  const key = ({ explanation }) => explanation.metrics?.[order] ?? (more ? -Infinity : Infinity);
  return (one, other) => (more ? key(other) - key(one) : key(one) - key(other)) || one.at - other.at;
}

function byRow(cells) {
  const rows = [];
  for (const cell of cells) (rows[cell.row] ??= []).push(cell);
  return rows;
}
