// Explanations side by side: methods, utilities and targets of one picture, laid out as a table.

import { announce, byId, element, oneDecimal, percent } from "./dom.js";
import { FIGURES } from "./results.js";
import { requestFields } from "./settings.js";

const MOST_CELLS = 64;
const MOST_TARGETS = 5;
const MOST_ACROSS = 6;
// What the paper's figures lay side by side.
const PRESETS = [
  ["Methods", { methods: ["gradcam", "hirescam", "gradcam-e", "layercam", "xgradcam", "gradcam++", "shapleycam", "shapleycam-h", "shapleycam-e", "randomcam"] }],
  ["Utilities", { methods: ["gradcam", "shapleycam"], utilities: ["pre-softmax", "post-softmax", "log-softmax", "rest"] }],
  ["Targets", { methods: ["gradcam", "shapleycam"] }],
];

export class Compare {
  #box = byId("compare");
  #rows = [];
  #fields = null;
  #predictions = [];

  /**
   * @param run asks for a comparison, which is then shown
   * @param open shows one explanation of it by itself
   * @param download saves the sheet of a comparison, by the fields that it was asked for with
   */
  constructor(settings, choices, { run, open, download }) {
    Object.assign(this, { settings, choices, run, open, download });
    settings.onChange((names) => {
      if (["methods", "utilities", "targets"].some((name) => names.has(name))) this.#showCount();
      this.#showStale();
    });
  }

  /** Sets the classes that can be targets. */
  setPredictions(predictions) {
    this.#predictions = predictions;
    if (this.#box.childElementCount) this.#showTargets();
  }

  /** Removes a comparison, which is of another picture or network. */
  clear() {
    this.#fields = null;
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
    const chosen = requestFields(this.settings, "compare", this.choices.takes);
    const isStale = this.#fields !== null && JSON.stringify(chosen) !== JSON.stringify(this.#fields);
    byId("comparison")?.classList.toggle("stale", isStale);
    const note = byId("stale");
    if (note) note.hidden = !isStale;
  }

  #submit(event) {
    event.preventDefault();
    return this.run();
  }

  /**
   * Shows a comparison.
   *
   * @param overlays an image for each explanation of the reply
   * @param fields that it was asked for with
   */
  show(reply, overlays, fields) {
    this.#fields = fields;
    const columns = reply.method.length * reply.utility.length;
    this.#rows = [];
    reply.explanations.forEach((explanation, at) => {
      (this.#rows[Math.floor(at / columns)] ??= []).push({ explanation, overlay: overlays[at], at });
    });
    // Rows that have to wrap break into lines of one length.
    const across = Math.ceil(columns / Math.ceil(columns / MOST_ACROSS));
    byId("comparison").replaceChildren(
      element(
        "div", { class: "bar" },
        element("label", { for: "sort" }, "Sort by"), this.#sortChoice(),
        element(
          "button", { type: "button", title: "One sheet, in the order as asked", onclick: () => this.download(fields) },
          "Download as PNG",
        ),
      ),
      element("p", { id: "stale", class: "hint", hidden: true }, "Made with other settings than those that are chosen now."),
      element("table", { id: "cells", role: "table", style: `--across: ${across}`, "aria-label": "Explanations side by side" }),
    );
    this.#showTable("none");
    this.#showStale();
    announce(`${reply.explanations.length} explanations side by side.`);
  }

  #sortChoice() {
    return element(
      "select", { id: "sort", onchange: (event) => this.#showTable(event.target.value) },
      element("option", { value: "none" }, "as asked"),
      ...FIGURES.map(([name, words, more]) =>
        element("option", { value: name }, `${words}, ${more ? "highest" : "lowest"} first`),
      ),
    );
  }

  /** Lays the cells out; sorted, each row has an order of its own, and the columns are places in it. */
  #showTable(order) {
    const rows = order === "none" ? this.#rows : this.#rows.map((row) => [...row].sort(by(order)));
    const words = FIGURES.find(([name]) => name === order)?.[1];
    const headings = rows[0].map(({ explanation: { method, utility } }, at) =>
      words ? `Place ${at + 1} by ${words}` : `${method}, ${utility}`,
    );
    // The roles say what the style, which lets rows wrap, hides from some screen readers.
    byId("cells").replaceChildren(
      element(
        "thead", { role: "rowgroup", class: "unseen" },
        element(
          "tr", { role: "row" },
          ...["Class", ...headings].map((heading) => element("th", { role: "columnheader", scope: "col" }, heading)),
        ),
      ),
      element("tbody", { role: "rowgroup" }, ...rows.map((row) => this.#row(row))),
    );
  }

  #row(row) {
    const { target } = row[0].explanation;
    return element(
      "tr", { role: "row" },
      element(
        "th", { role: "rowheader", scope: "row" },
        target.label, element("small", {}, ` ${percent(target.probability)}, class ${target.index}`),
      ),
      ...row.map((cell) => element("td", { role: "cell" }, this.#figure(cell))),
    );
  }

  #figure({ explanation, overlay }) {
    const { method, utility, target, metrics, warnings } = explanation;
    overlay.alt = `Evidence for ${target.label} by ${method}, ${utility}`;
    const figures = FIGURES.slice(1, 4).map(([name, words]) => `${words} ${figure(metrics?.[name])}`);
    return element(
      "figure", {},
      overlay,
      element(
        "figcaption", {},
        element("strong", {}, method), ` ${utility}`,
        element("span", { class: "adcc" }, `ADCC ${figure(metrics?.adcc)}`),
        element("span", { class: "hint" }, figures.join(", ")),
        ...warnings.map((warning) => element("span", { class: "warning" }, `${warning}.`)),
        element("button", { type: "button", class: "link", onclick: () => this.open(explanation) }, "Open",
          element("span", { class: "unseen" }, ` ${method}, ${utility}, ${target.label}`)),
      ),
    );
  }
}

const figure = (value) => (value === null || value === undefined ? "undefined" : oneDecimal(value));

/** What is undefined comes last. */
function by(order) {
  const more = FIGURES.find(([name]) => name === order)[2];
  const key = ({ explanation }) => explanation.metrics?.[order] ?? (more ? -Infinity : Infinity);
  return (one, other) => (more ? key(other) - key(one) : key(one) - key(other)) || one.at - other.at;
}
