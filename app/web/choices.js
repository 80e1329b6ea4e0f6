// What can be chosen, from what the service answers: networks, layers, methods, utilities, and their parameters.

import { byId, element, fillSelect } from "./dom.js";
import { COLORMAPS } from "./colormaps.js";
import { DEFAULTS, parametersOf } from "./settings.js";

const OTHER_LAYER = " other";
const LAYERS = {
  pre_gap: "What global average pooling takes: the last features before the scores.",
  last_conv: "The output of the last convolution.",
  last_norm: "The normalised tokens of the last block.",
};
// Words, attributes of the field, note.
const PARAMETERS = {
  permutations: ["Permutations", { type: "number", min: 2, max: 65536, step: 2 }, "an even number from 2 to 65,536"],
  nodes: ["Nodes", { type: "number", min: 1, max: 64, step: 1 }, "of the quadrature, from 1 to 64"],
  tolerance: ["Tolerance", { type: "number", min: 0, step: "any" }, "stop at this standard error; empty draws all"],
  seed: ["Seed", { inputmode: "numeric" }, "the same seed draws the same"],
};

export class Choices {
  models = [];
  methods = [];
  utilities = [];
  #descriptions = new Map();
  #labels = new Map();
  #listed = "";
  #isOther = false;

  constructor(settings, client) {
    this.settings = settings;
    this.client = client;
    for (const name of ["model", "method", "utility", "fit", "smooth", "colormap"]) {
      byId(name).addEventListener("change", (event) => settings.set({ [name]: event.target.value }));
    }
    byId("layer").addEventListener("change", (event) => this.#chooseLayer(event.target.value));
    byId("layer-path").addEventListener("change", (event) => {
      if (event.target.value.trim()) settings.set({ layer: event.target.value.trim() });
    });
    byId("reference").addEventListener("change", (event) => {
      settings.set({ reference: event.target.checked ? "shapley-sampling" : "none" });
    });
    fillSelect(byId("colormap"), Object.entries(COLORMAPS).map(([name, [words]]) => [name, words]), "jet");
    settings.onChange((names) => {
      // The slider moves often, and changes nothing here.
      if (names.has("alpha")) return;
      if (names.has("model") || names.has("layer")) this.#isOther = false;
      this.show();
    });
  }

  /** Names of the parameters that a method takes. */
  takes = (name) => this.methods.find((method) => method.name === name)?.parameters ?? [];

  /**
   * Asks the service what there is.
   *
   * @returns sentences about settings that this service cannot restore
   */
  async load(watch) {
    const [{ models }, { methods }, { utilities }] = await Promise.all([
      this.client.get("v1/models", watch), this.client.get("v1/methods", watch), this.client.get("v1/utilities", watch),
    ]);
    Object.assign(this, { models, methods, utilities });
    const missing = [
      ...this.#settle("model", models, "network", models[0]),
      ...this.#settle("method", methods.map(named), "method", DEFAULTS.method),
      ...this.#settle("utility", utilities.map(named), "utility", DEFAULTS.utility),
    ];
    this.#settleList("methods", methods.map(named));
    this.#settleList("utilities", utilities.map(named));
    this.show();
    return missing;
  }

  /** Asks for the layers and classes of a network, where they are not known yet; waits until it is ready. */
  async describe(name, watch) {
    if (!this.#descriptions.has(name)) {
      const path = `v1/models/${encodeURIComponent(name)}`;
      // Not both at once: while the network loads, one of them waits and says so.
      const description = await this.client.get(path, watch);
      this.#labels.set(name, (await this.client.get(`${path}/labels`, watch)).labels);
      this.#descriptions.set(name, description);
    }
    this.show();
  }

  /** The layer that the service takes where none is named. */
  defaultLayer(name) {
    const names = Object.keys(this.#descriptions.get(name).layers);
    return names.includes("pre_gap") ? "pre_gap" : (names[0] ?? "");
  }

  /** Whether each label of the network has a probability of its own. */
  get isEachForItself() {
    return this.#descriptions.get(this.settings.get("model"))?.scores === "sigmoid";
  }

  /** The index of a class by name or index; null where there is none or several. */
  classOf(text) {
    const labels = this.#labels.get(this.settings.get("model")) ?? [];
    if (/^\d+$/.test(text)) return Number(text) < labels.length ? Number(text) : null;
    const lower = text.toLowerCase();
    const all = (isIt) => labels.flatMap((label, index) => (isIt(label) ? [index] : []));
    const exact = all((label) => label === text);
    const found = exact.length ? exact : all((label) => label.toLowerCase() === lower);
    return found.length === 1 ? found[0] : null;
  }

  label(index) {
    return this.#labels.get(this.settings.get("model"))?.[index] ?? `class ${index}`;
  }

  /** Shows what is set. */
  show() {
    const { settings } = this;
    if (!this.models.length) return;
    const [model, method, utility] = ["model", "method", "utility"].map((name) => settings.get(name));
    fillSelect(byId("model"), this.models, model);
    fillSelect(byId("method"), this.methods.map(named), method);
    fillSelect(byId("utility"), this.utilities.map(named), utility);
    describeEntry(byId("method-note"), this.methods.find(({ name }) => name === method));
    describeEntry(byId("utility-note"), this.utilities.find(({ name }) => name === utility));
    for (const name of ["fit", "smooth", "colormap"]) byId(name).value = settings.get(name);
    byId("reference").checked = settings.get("reference") !== "none";
    this.#showLayers(model);
    this.#showParameters();
    const parts = settings.get("tab") === "compare" ? [model, settings.get("layer")] : [method, utility, settings.get("layer")];
    byId("settings-summary").textContent = parts.join(" · ");
  }

  #showLayers(model) {
    const description = this.#descriptions.get(model);
    if (!description) return;
    const { layers, input_size: size, classes, scores, weights, device } = description;
    // Two may be those of a single logit.
    const known = scores === "sigmoid" && classes > 2 ? `${classes} labels, each for itself` : `${classes} classes`;
    byId("model-note").textContent = `${known}, sees ${size[1]} × ${size[0]} px, on ${device}; weights: ${weights}.`;
    this.#listLabels(model);
    const layer = this.settings.get("layer");
    if (!layer) return;
    const isNamed = Object.hasOwn(layers, layer);
    const open = !isNamed || this.#isOther;
    fillSelect(byId("layer"), [...Object.keys(layers), [OTHER_LAYER, "another module…"]], open ? OTHER_LAYER : layer);
    byId("layer-path").hidden = !open;
    byId("layer-path").value = isNamed ? "" : layer;
    byId("layer-note").textContent = open
      ? "The path of any module whose output has a spatial grid; MODULE+relu for the ReLU of it."
      : `${LAYERS[layer] ?? ""} Module ${layers[layer]}.`.trim();
  }

  #chooseLayer(value) {
    if (value !== OTHER_LAYER) {
      this.settings.set({ layer: value });
      return;
    }
    this.#isOther = true;
    this.show();
    byId("layer-path").focus();
  }

  #listLabels(model) {
    if (this.#listed === model) return;
    this.#listed = model;
    byId("labels").replaceChildren(...this.#labels.get(model).map((label) => element("option", { value: label })));
  }

  #showParameters() {
    const { settings } = this;
    const names = parametersOf(settings, settings.get("tab"), this.takes);
    const box = byId("parameters");
    const shown = [...box.querySelectorAll("input")].map(({ id }) => id.replace("parameter-", ""));
    if (String(shown) !== String(names)) box.replaceChildren(...names.map((name) => this.#parameter(name)));
    for (const name of names) byId(`parameter-${name}`).value = settings.get(name);
  }

  #parameter(name) {
    const [words, attributes, note] = PARAMETERS[name];
    const id = `parameter-${name}`;
    // What is out of range is the service's to refuse, in its own words.
    const onchange = ({ target }) => {
      const text = target.value.trim();
      const value = text === "" ? DEFAULTS[name] : typeof DEFAULTS[name] === "number" ? Number(text) : text;
      this.settings.set({ [name]: value });
      target.value = value;
    };
    return element(
      "div", { class: "field" },
      element("label", { for: id }, words),
      element("input", { id, ...attributes, onchange, "aria-describedby": `${id}-note` }),
      element("p", { class: "hint", id: `${id}-note` }, note),
    );
  }

  #settle(name, allowed, words, usual) {
    const value = this.settings.get(name);
    if (allowed.includes(value)) return [];
    this.settings.set({ [name]: usual });
    return value ? [`The link names the ${words} “${value}”, which this service does not have`] : [];
  }

  #settleList(name, allowed) {
    const kept = this.settings.get(name).filter((value) => allowed.includes(value));
    this.settings.set({ [name]: kept.length ? kept : DEFAULTS[name].filter((value) => allowed.includes(value)) });
  }
}

const named = ({ name }) => name;

function describeEntry(note, entry) {
  note.replaceChildren(...(entry ? [entry.description, " ", element("span", { class: "source" }, `${entry.source}.`)] : []));
}
