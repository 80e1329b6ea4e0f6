// What the page says of a request that is not answered yet, or was refused.

import { announce, byId, element, seconds } from "./dom.js";
import { ServiceError } from "./client.js";

// Short requests come and go without a word.
const QUIET_S = 0.6;

export class Notice {
  #box = byId("notice");

  clear() {
    const hadFocus = this.#box.contains(document.activeElement);
    this.#box.hidden = true;
    this.#box.replaceChildren();
    if (hadFocus) byId("stage").focus({ preventScroll: true });
  }

  /** That the reader gave up what was asked; `retry` asks again. */
  cancelled(retry) {
    this.#show("cancelled", element("p", {}, "Cancelled."), button("Try again", retry));
    announce("Cancelled.");
  }

  /** How far a request is; `cancel` gives it up. */
  progress({ elapsed_s: elapsed, state, running_s: running, estimate_s: estimate }, cancel) {
    if (elapsed < QUIET_S) return;
    const isMeasured = state === "running" && estimate > 0;
    const share = isMeasured ? Math.min(0.97, running / estimate) : null;
    const words =
      state === "waiting"
        ? `Waiting for the device: ${seconds(elapsed)}`
        : isMeasured
          ? `At work: ${seconds(running)} of about ${seconds(estimate)}`
          : `At work: ${seconds(elapsed)}`;
    if (this.#box.dataset.kind !== "progress" || this.#box.hidden) {
      this.#show("progress", element("p"), element("progress", { "aria-label": "Progress", max: 1 }), button("Cancel", cancel));
      announce("The service is at work.");
    }
    this.#box.querySelector("p").textContent = words;
    const bar = this.#box.querySelector("progress");
    if (share === null) bar.removeAttribute("value");
    else bar.value = share;
  }

  /** That the request is asked again by itself, and when; null once it has been. */
  waiting(wait, cancel) {
    if (wait === null) {
      if (this.#box.dataset.kind === "waiting" && !this.#box.hidden) this.#box.children[1].textContent = "Trying again now.";
      return;
    }
    const reason = { queue_full: "The queue is full", not_ready: "The service is not ready yet" }[wait.error.code];
    const words = `${reason ?? "The service cannot answer just now"}: ${wait.error.message}.`;
    if (this.#box.dataset.kind !== "waiting" || this.#box.hidden) {
      this.#show("waiting", element("p"), element("p", { class: "hint" }), button("Cancel", cancel));
      announce(words);
    }
    this.#box.children[0].textContent = words;
    this.#box.children[1].textContent = `Trying again in ${wait.seconds} s.`;
  }

  /** An error in the service's own words; `retry` asks again. */
  error(error, retry) {
    const parts = [element("p", {}, element("strong", {}, sentence(error.message)))];
    if (error instanceof ServiceError) {
      const { field, expected } = error.detail;
      if (expected) parts.push(element("p", {}, element("code", {}, field ?? "request"), `: expected ${expected}.`));
      parts.push(element("p", { class: "hint" }, `${error.status} ${error.code}`));
    }
    const again = retry && mayChange(error) ? [button("Try again", retry)] : [];
    this.#show("error", ...parts, element("div", { class: "buttons" }, ...again, button("Dismiss", () => this.clear())));
    announce(error.message);
  }

  #show(kind, ...parts) {
    const hadFocus = this.#box.contains(document.activeElement);
    this.#box.dataset.kind = kind;
    this.#box.replaceChildren(...parts);
    this.#box.hidden = false;
    if (hadFocus) this.#box.querySelector("button").focus();
  }
}

/** Whether the same request may be answered another time. */
const mayChange = (error) => !(error instanceof ServiceError) || error.status >= 500 || error.status === 401;

const button = (words, onclick) => element("button", { type: "button", onclick }, words);

function sentence(words) {
  const text = `${words.charAt(0).toUpperCase()}${words.slice(1)}`;
  return /[.!?]$/.test(text) ? text : `${text}.`;
}
