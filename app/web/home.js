// The call and the link that bring what is on the screen elsewhere.

import { announce, byId, wireTabs } from "./dom.js";
import { curlCall, pythonCall } from "./calls.js";
import { requestFields, toLink, withShownAlpha } from "./settings.js";

const CALLS = { "tab-curl": curlCall, "tab-python": pythonCall };
const COPIED_MS = 1500;
// Browsers take only so many changes of their address in a while; a slider makes many.
const LINK_AFTER_MS = 300;

export class Home {
  #language = "tab-curl";
  #picture = null;
  #shown = {};
  #linking = 0;

  constructor(settings, choices, client) {
    Object.assign(this, { settings, choices, client });
    const select = wireTabs(document.querySelector('[aria-label="Language"]'), (id) => {
      this.#language = id;
      select(id);
      byId("call").setAttribute("aria-labelledby", id);
      this.show();
    });
    byId("copy-call").addEventListener("click", (event) => copy(event.target, this.#call()));
    byId("copy-link").addEventListener("click", (event) => copy(event.target, this.#link()));
    settings.onChange(() => this.show());
  }

  /** Takes another picture. */
  set picture(picture) {
    this.#picture = picture;
    this.#shown = {};
    this.show();
  }

  /** Sets the fields of the result on the screen, which stays while another one is made or refused. */
  setShown(kind, fields) {
    this.#shown[kind] = fields;
    this.show();
  }

  show() {
    // Links and calls are only for what a reader has seen to exist.
    if (!this.choices.models.length) return;
    clearTimeout(this.#linking);
    this.#linking = setTimeout(() => history.replaceState(null, "", this.#link()), LINK_AFTER_MS);
    byId("home").hidden = !this.#picture;
    if (!this.#picture) return;
    byId("call").querySelector("code").textContent = this.#call();
    const { source, name } = this.#picture;
    const notes = {
      file: `Run it where ${name} lies. A link carries the settings, not your picture.`,
      pasted: `Save the pasted picture as ${name} first, and run it there. A link carries the settings, not your picture.`,
      example: "It runs as it stands.",
    };
    const key = this.client.hasKey ? " It reads your API key from the environment variable CAM_API_KEY." : "";
    const isHeatmap = this.settings.get("tab") === "explain" && this.settings.get("show") === "heatmap";
    const heatmap = isHeatmap ? " Outside the frame it keeps the picture." : "";
    byId("call-note").textContent = notes[source] + heatmap + key;
  }

  #call() {
    const kind = this.settings.get("tab");
    const made = this.#shown[kind] ?? requestFields(this.settings, kind, this.choices.takes);
    const fields = kind === "explain" ? withShownAlpha(made, this.settings) : made;
    const base = new URL(".", document.baseURI).href;
    return CALLS[this.#language](kind, base, this.#picture, fields, this.client.hasKey);
  }

  #link() {
    const fragment = toLink(this.settings);
    return `${location.origin}${location.pathname}${location.search}${fragment ? `#${fragment}` : ""}`;
  }
}

async function copy(button, text) {
  const words = button.dataset.words ?? (button.dataset.words = button.textContent);
  const done = await toClipboard(text);
  button.textContent = done ? "Copied" : "Select and copy it by hand";
  announce(button.textContent);
  setTimeout(() => {
    button.textContent = words;
  }, COPIED_MS);
}

/** Where a page comes without TLS from another machine, browsers have no clipboard but this older way. */
async function toClipboard(text) {
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // Refused: perhaps the older way is not.
    }
  }
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "unseen";
  const before = document.activeElement;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  before?.focus();
  return done;
}
