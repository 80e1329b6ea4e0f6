// What is set on the page, and the link that restores it.

export const DEFAULTS = Object.freeze({
  tab: "explain",
  example: "",
  model: "",
  layer: "",
  method: "shapleycam",
  utility: "rest",
  target: "predicted",
  fit: "",
  smooth: "none",
  colormap: "jet",
  alpha: 0.5,
  show: "overlay",
  reference: "none",
  permutations: 256,
  nodes: 8,
  seed: "0", // up to 2^63 - 1, which is no number here
  tolerance: "",
  methods: Object.freeze(["shapleycam", "gradcam", "hirescam", "layercam", "xgradcam", "gradcam++"]),
  utilities: Object.freeze(["rest"]),
  targets: Object.freeze(["predicted"]),
});

// What else than these a link may say is as if it said nothing.
const ALLOWED = {
  tab: ["explain", "compare"],
  show: ["original", "overlay", "heatmap"],
  fit: ["", "crop", "pad", "stretch"],
  smooth: ["none", "flip", "flip-scale"],
  reference: ["none", "shapley-sampling"],
};

// Fields of a request that are left out while they are what the service takes anyway.
const OPTIONAL = ["fit", "smooth", "colormap", "alpha"];
// Only for methods that say that they take them.
const OF_METHODS = ["permutations", "nodes", "tolerance", "seed"];
const OF_REFERENCE = ["permutations", "tolerance", "seed"];

/** Values by name; tells listeners which names changed. */
export class Settings {
  #values;
  #listeners = [];

  constructor(values) {
    this.#values = { ...DEFAULTS, ...values };
  }

  get(name) {
    return this.#values[name];
  }

  /** Sets several values at once. */
  set(changes) {
    const changed = Object.keys(changes).filter((name) => !same(this.#values[name], changes[name]));
    Object.assign(this.#values, changes);
    if (changed.length) for (const listener of this.#listeners) listener(new Set(changed));
  }

  onChange(listener) {
    this.#listeners.push(listener);
  }
}

const same = (one, other) => String(one) === String(other);

/**
 * The parameters that matter to what is chosen: those that its methods take, and those of the reference.
 *
 * @param kind "explain" or "compare"
 * @param takes the parameters that a method takes, by its name
 */
export function parametersOf(settings, kind, takes) {
  const methods = kind === "compare" ? settings.get("methods") : [settings.get("method")];
  const wanted = new Set(methods.flatMap(takes));
  if (kind === "explain" && settings.get("reference") !== "none") for (const name of OF_REFERENCE) wanted.add(name);
  return OF_METHODS.filter((name) => wanted.has(name));
}

/** The strength that the stage shows the heatmap with. */
export function shownAlpha(settings) {
  return { original: 0, overlay: settings.get("alpha"), heatmap: 1 }[settings.get("show")];
}

/** What a link carries; values of a wrong kind are left out. */
export function fromLink(hash) {
  const values = {};
  for (const [name, text] of new URLSearchParams(hash.replace(/^#/, ""))) {
    if (!Object.hasOwn(DEFAULTS, name) || ALLOWED[name]?.includes(text) === false) continue;
    const usual = DEFAULTS[name];
    if (Array.isArray(usual)) values[name] = text.split(" ").filter(Boolean);
    else if (typeof usual !== "number") values[name] = text;
    else if (text.trim() && Number.isFinite(Number(text))) values[name] = Number(text);
  }
  if ("alpha" in values) values.alpha = Math.min(1, Math.max(0, values.alpha));
  return values;
}

/** The fragment of a link that restores the settings; nothing of it is sent to any server. */
export function toLink(settings) {
  const parameters = new URLSearchParams();
  for (const [name, usual] of Object.entries(DEFAULTS)) {
    const value = settings.get(name);
    if (!same(value, usual)) parameters.set(name, Array.isArray(value) ? value.join(" ") : value);
  }
  return parameters.toString();
}

/**
 * The fields that a request carries besides the picture, as [name, text] pairs.
 *
 * @param kind "explain", "compare" or "predict"
 * @param takes the parameters that a method takes, by its name
 */
export function requestFields(settings, kind, takes) {
  if (kind === "predict") {
    const fit = settings.get("fit");
    return [["model", settings.get("model")], ...(fit ? [["fit", fit]] : [])];
  }
  const several = kind === "compare";
  const methods = several ? settings.get("methods") : [settings.get("method")];
  const utilities = several ? settings.get("utilities") : [settings.get("utility")];
  const targets = several ? settings.get("targets") : [settings.get("target")];
  const fields = [
    ["model", settings.get("model")],
    ["layer", settings.get("layer")],
    ...methods.map((name) => ["method", name]),
    ...utilities.map((name) => ["utility", name]),
    ...targets.map((name) => ["target", name]),
  ];
  const others = several ? OPTIONAL : ["reference", ...OPTIONAL];
  for (const name of [...others, ...parametersOf(settings, kind, takes)]) {
    const value = name === "alpha" && !several ? shownAlpha(settings) : settings.get(name);
    if (!same(value, DEFAULTS[name])) fields.push([name, String(value)]);
  }
  return fields;
}

/** The fields of an explanation with the strength that it is shown with now, which takes no other request. */
export function withShownAlpha(fields, settings) {
  const alpha = shownAlpha(settings);
  const others = fields.filter(([name]) => name !== "alpha");
  return same(alpha, DEFAULTS.alpha) ? others : [...others, ["alpha", String(alpha)]];
}
