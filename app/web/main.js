// Wires the page: a picture, the settings and the service.

import { Choices } from "./choices.js";
import { Client } from "./client.js";
import { Compare } from "./compare.js";
import { announce, byId, oneDecimal, percent, save, wireTabs } from "./dom.js";
import { Home } from "./home.js";
import { askForKey } from "./key.js";
import { Notice } from "./notice.js";
import { example, showName, wirePictures } from "./picture.js";
import { clearResults, showFigures, showPredictions } from "./results.js";
import { DEFAULTS, Settings, fromLink, requestFields } from "./settings.js";
import { Stage, decoded } from "./stage.js";
import { wireTheme } from "./theme.js";

// What makes an explanation another one; the rest is drawn here.
const ASKED = ["layer", "method", "utility", "target", "fit", "smooth", "colormap", "reference", "permutations", "nodes", "tolerance", "seed"];

const isWide = matchMedia("(min-width: 60rem)");
const settings = new Settings(fromLink(location.hash));
const client = new Client(async (wasRefused) => {
  const key = await askForKey(wasRefused);
  byId("api-link").hidden = true; // it has no way to send the key
  return key;
});
const notice = new Notice();
const stage = new Stage(settings);
const choices = new Choices(settings, client);
const compare = new Compare(settings, choices, { run: runComparison, open: openExplanation, download: downloadSheet });
const home = new Home(settings, choices, client);
const selectTab = wireTabs(document.querySelector('[aria-label="View"]'), (id) => settings.set({ tab: id.replace("tab-", "") }));

let picture = null;
let isKnown = false;
let isStale = false;
let isQuiet = false;
let pending = null;
let explaining = null;
let comparing = null;
let taking = 0;

settings.onChange((names) => {
  if (names.has("tab")) showTab();
  if (!isKnown || isQuiet) return;
  if (names.has("model")) changeNetwork();
  else if (ASKED.some((name) => names.has(name))) isStale = true;
  if (isStale && settings.get("tab") === "explain") explain({ isNew: !stage.explanation });
});

/** Asks the service what there is; everything else waits for that. */
async function start() {
  isKnown = false;
  const controller = startRequest();
  try {
    const missing = await choices.load(watched(controller));
    await describe(watched(controller));
    notice.clear();
    compare.build();
    isKnown = true;
    home.show();
    const name = settings.get("example");
    const questions = { target: settings.get("target"), targets: settings.get("targets") };
    // Who has chosen a picture meanwhile wants that one, not the link's.
    if (name && taking === 0) await takeExample(name, questions);
    else if (picture) await explain({ isNew: true });
    if (missing.length) notice.error(new Error(missing.join(". ")));
  } catch (error) {
    fail(controller, error, start);
  }
}

/** Sets what belongs to a question that follows anyway. */
function setQuietly(changes) {
  isQuiet = true;
  settings.set(changes);
  isQuiet = false;
}

async function takeExample(name, questions) {
  const turn = ++taking;
  try {
    const found = await example(name);
    // Another picture may have been chosen meanwhile.
    if (turn === taking) await usePicture(found, questions);
  } catch (error) {
    if (turn === taking) notice.error(error, () => takeExample(name, questions));
  }
}

/** Takes a picture, and explains it. */
async function usePicture(taken, { target, targets } = DEFAULTS) {
  taking += 1;
  picture = taken;
  picture.isReadable = stage.showOriginal(taken.blob);
  clearResults();
  compare.setPredictions([]);
  compare.clear();
  setQuietly({ example: taken.source === "example" ? taken.name : "", target, targets });
  showName(taken);
  home.picture = taken;
  if (!isWide.matches) document.querySelector(".work").scrollIntoView();
  if (isKnown) await explain({ isNew: true });
}

/** Another network has other layers and other classes. */
async function changeNetwork() {
  const controller = startRequest();
  compare.clear();
  setQuietly({ layer: "", target: "predicted", targets: ["predicted"] });
  try {
    await describe(watched(controller));
    compare.build();
    notice.clear();
    await explain({ isNew: true });
  } catch (error) {
    fail(controller, error, changeNetwork);
  }
}

/** Finds out what the chosen network has, where that is not known yet. */
async function describe(watch) {
  const name = settings.get("model");
  await choices.describe(name, watch);
  // Another one may have been chosen meanwhile.
  if (name === settings.get("model") && !settings.get("layer")) setQuietly({ layer: choices.defaultLayer(name) });
}

/** Asks for the explanation of what is set, and shows it. */
async function explain({ isNew = false } = {}) {
  isStale = false;
  if (!picture) return;
  const asked = picture;
  const controller = startRequest();
  explaining = controller;
  let isPredicting = !isNew;
  const watch = watched(controller, (progress) => {
    // Where an explanation takes long, the classes come first.
    if (isPredicting || !["waiting", "running"].includes(progress.state)) return;
    isPredicting = true;
    predict(asked, controller.signal);
  });
  byId("frame").setAttribute("aria-busy", "true");
  try {
    await describe(watch);
    const fields = fieldsOf("explain").filter(([name]) => name !== "alpha");
    // The overlay comes at full strength, and is blended here.
    const drawn = [["alpha", "1"], ["include", "overlay"], ["include", "attribution"]];
    const reply = await client.post("v1/explain", asked, [...fields, ...drawn], watch);
    if (!(await asked.isReadable)) await showByService(asked, watch);
    if (!(await stage.show(reply, controller.signal))) return;
    notice.clear();
    show(reply);
    home.setShown("explain", fields);
  } catch (error) {
    fail(controller, error, () => explain({ isNew }));
  } finally {
    if (explaining === controller) {
      explaining = null;
      byId("frame").removeAttribute("aria-busy");
    }
  }
}

function show(reply) {
  const [{ target, method, metrics }] = reply.explanations;
  showPredictions(reply.predictions, target, chooseClass, choices.isEachForItself);
  showFigures(reply);
  compare.setPredictions(reply.predictions);
  const adcc = Number.isFinite(metrics?.adcc) ? `, ADCC ${oneDecimal(metrics.adcc)}` : "";
  announce(`${target.label}, ${percent(target.probability)}, explained by ${method}${adcc}.`);
}

/** Shows what the network says before it is known why. */
async function predict(asked, signal) {
  const fields = fieldsOf("predict");
  try {
    const reply = await client.post("v1/predict", asked, fields, { signal });
    if (signal.aborted || picture !== asked || stage.explanation) return;
    showPredictions(reply.predictions, null, chooseClass, choices.isEachForItself);
  } catch {
    // The explanation that is on its way says what is wrong.
  }
}

/** Shows a picture that the browser cannot show, as the network sees it: an overlay without any heatmap is the picture. */
async function showByService(asked, watch) {
  const model = settings.get("model");
  if (asked.shownFor === model) return;
  const bare = [["model", model], ["method", "fakecam"], ["metrics", "false"], ["alpha", "0"], ["include", "overlay"]];
  const reply = await client.post("v1/explain", asked, bare, watch);
  if (picture !== asked) return;
  await stage.showPng(reply.explanations[0].overlay);
  asked.shownFor = model;
}

/** Gives up what is still being asked for a comparison; an explanation is asked for again when one looks for it. */
function startComparison() {
  isStale ||= explaining !== null;
  return startRequest();
}

/** Asks for what is chosen side by side, and has it shown. */
async function runComparison() {
  if (!picture) {
    notice.error(new Error("Choose a picture first"));
    return;
  }
  const controller = startComparison();
  comparing = controller;
  byId("compare").setAttribute("aria-busy", "true");
  try {
    await describe(watched(controller));
    const fields = fieldsOf("compare");
    const reply = await client.post("v1/compare", picture, [...fields, ["include", "overlay"]], watched(controller));
    const overlays = await Promise.all(reply.explanations.map(({ overlay }) => decoded(overlay)));
    if (controller.signal.aborted) return;
    compare.show(reply, overlays, fields);
    home.setShown("compare", fields);
    notice.clear();
  } catch (error) {
    fail(controller, error, runComparison);
  } finally {
    if (comparing === controller) {
      comparing = null;
      byId("compare").removeAttribute("aria-busy");
    }
  }
}

/** Asks for the sheet of a comparison, and saves it. */
async function downloadSheet(fields) {
  const controller = startComparison();
  try {
    save(await client.postForPng("v1/compare", picture, fields, watched(controller)), "comparison.png");
    notice.clear();
  } catch (error) {
    fail(controller, error, () => downloadSheet(fields));
  }
}

function openExplanation({ method, utility, target }) {
  settings.set({ tab: "explain", method, utility, target: String(target.index) });
  byId("tab-explain").focus();
}

function chooseClass(index) {
  settings.set({ target: String(index) });
}

const fieldsOf = (kind) => requestFields(settings, kind, choices.takes);

/** Gives up what is still being asked, since something else is wanted. */
function startRequest() {
  pending?.abort();
  pending = new AbortController();
  return pending;
}

function watched(controller, alsoDo = () => {}) {
  const cancel = () => controller.abort();
  return {
    signal: controller.signal,
    onWait: (wait) => notice.waiting(wait, cancel),
    onProgress: (progress) => {
      notice.progress(progress, cancel);
      alsoDo(progress);
    },
  };
}

/** Says what went wrong, unless something else was asked meanwhile. */
function fail(controller, error, retry) {
  if (pending !== controller) return;
  if (!controller.signal.aborted) {
    notice.error(error, retry);
    return;
  }
  notice.cancelled(retry);
}

function showTab() {
  const tab = settings.get("tab");
  selectTab(`tab-${tab}`);
  document.body.dataset.tab = tab;
  byId("explain").hidden = tab !== "explain";
  byId("compare").hidden = tab !== "compare";
}

byId("other").addEventListener("submit", (event) => {
  event.preventDefault();
  const input = byId("other-class");
  const index = choices.classOf(input.value.trim());
  input.setCustomValidity(index === null ? "Choose the name of one class, or its index." : "");
  if (index === null) input.reportValidity();
  else chooseClass(index);
});
byId("other-class").addEventListener("input", (event) => event.target.setCustomValidity(""));
byId("least-likely").addEventListener("click", () => settings.set({ target: "least-likely" }));
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the fragment holds the settings
  byId("stage").focus();
});
window.addEventListener("hashchange", () => {
  const linked = fromLink(location.hash);
  // Not every fragment is a link of this page.
  if (location.hash && !Object.keys(linked).length) return;
  isKnown = false;
  settings.set({ ...DEFAULTS, ...linked });
  start();
});

wireTheme();
wirePictures(usePicture, takeExample);
// On a phone the picture comes first, and the settings on demand.
byId("settings").open = isWide.matches;
showTab();
start();
