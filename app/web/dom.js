// Small helpers for the document.

// A browser has read a file by then that it is to save.
const KEPT_MS = 60_000;

export const byId = (id) => document.getElementById(id);

/** Makes an element: `element("li", {class: "x", onclick: f, hidden: true}, "text", otherElement)`. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (typeof value === "boolean") made.toggleAttribute(name, value);
    else if (value !== undefined && value !== null) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Saves a file. */
export function save(blob, name) {
  // Of data: addresses browsers save only short ones.
  const href = URL.createObjectURL(blob);
  element("a", { href, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(href), KEPT_MS);
}

/** Fills a `<select>` with options, each a value or [value, words]. */
export function fillSelect(select, options, chosen) {
  select.replaceChildren(
    ...options.map((option) => {
      const [value, words] = Array.isArray(option) ? option : [option, option];
      return element("option", { value }, words);
    }),
  );
  select.value = chosen;
}

/** Makes a list of tabs behave as one stop of the keyboard, with arrows, Home and End inside. */
export function wireTabs(list, choose) {
  const tabs = [...list.querySelectorAll('[role="tab"]')];
  const show = (chosen) => {
    for (const tab of tabs) {
      tab.setAttribute("aria-selected", String(tab === chosen));
      tab.tabIndex = tab === chosen ? 0 : -1;
    }
  };
  list.addEventListener("click", (event) => {
    const tab = event.target.closest('[role="tab"]');
    if (tab) choose(tab.id);
  });
  list.addEventListener("keydown", (event) => {
    const at = tabs.indexOf(document.activeElement);
    const last = tabs.length - 1;
    const next = { ArrowRight: at === last ? 0 : at + 1, ArrowLeft: at ? at - 1 : last, Home: 0, End: last }[event.key];
    if (at < 0 || next === undefined) return;
    event.preventDefault();
    tabs[next].focus();
    choose(tabs[next].id);
  });
  return (id) => show(byId(id));
}

/** Says something to those who listen instead of looking. */
export function announce(words) {
  byId("announcer").textContent = words;
}

const ONE = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const SIGNED = new Intl.NumberFormat("en", { signDisplay: "exceptZero", maximumSignificantDigits: 3 });
const PLAIN = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });

export const oneDecimal = (value) => ONE.format(value);
export const plain = (value) => (value === null ? "undefined" : PLAIN.format(value));
export const signed = (value) => (value === null ? "undefined" : SIGNED.format(value).replace("-", "−"));

/** A probability as people read it. */
export function percent(probability) {
  const value = 100 * probability;
  return value > 0 && value < 0.1 ? "< 0.1%" : `${oneDecimal(value)}%`;
}

/** A duration as people read it. */
export const seconds = (value) => (value < 10 ? `${oneDecimal(value)} s` : `${Math.round(value)} s`);
