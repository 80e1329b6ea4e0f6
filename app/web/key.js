// Asks for an API key, which is kept by whoever asked, in memory only.

import { byId } from "./dom.js";

/**
 * Answers with a key, or null where none is given.
 *
 * @param wasRefused whether a key was given before, and the service did not know it
 */
export function askForKey(wasRefused) {
  const dialog = byId("key-dialog");
  const input = byId("key");
  input.value = "";
  // Headers carry no others; a request with one would fail without a word.
  input.pattern = "[!-~]+";
  input.title = "Letters, digits and signs of ASCII, without spaces";
  byId("key-error").textContent = wasRefused ? "The service does not know this key." : "";
  dialog.returnValue = "cancel";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener(
      "close",
      () => {
        const key = dialog.returnValue === "use" ? input.value.trim() : "";
        input.value = "";
        resolve(key || null);
      },
      { once: true },
    );
  });
}
