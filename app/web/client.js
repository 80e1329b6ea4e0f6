// Talks to the service: keys, waiting where it is busy, its errors in its own words, and progress.

const POLL_AFTER_MS = 300;
const POLL_EVERY_MS = 700;
const USUAL_WAIT_S = 2;
// A worker that failed is started anew at once; one that keeps failing is no reason to wait for ever.
const MOST_FAILURES = 3;

/** An error reply: the service's own words. */
export class ServiceError extends Error {
  constructor(status, reply) {
    super(reply.error);
    this.status = status;
    this.code = reply.code;
    this.detail = reply.detail ?? {};
  }
}

/** No reply, or one that was cut off. */
export class Unreachable extends Error {
  constructor() {
    super("The service cannot be reached");
  }
}

export class Client {
  #key = "";
  #asking = null;

  /** @param askForKey answers with an API key, or null where the caller has none; told whether one was refused. */
  constructor(askForKey) {
    this.askForKey = askForKey;
  }

  get hasKey() {
    return this.#key !== "";
  }

  /** Asks for JSON. */
  async get(path, watch = {}) {
    return read(await this.#ask(path, {}, watch), "json");
  }

  /**
   * Posts a picture with fields as multipart/form-data, and answers with the reply in JSON.
   *
   * @param watch {signal, onWait({seconds, error}, or null once it is asked again), onProgress({elapsed_s, state,
   *   estimate_s, running_s})}
   */
  async post(path, picture, fields, watch = {}) {
    return read(await this.#post(path, picture, fields, watch, "application/json"), "json");
  }

  /** The same for a reply that is a PNG, as a blob. */
  async postForPng(path, picture, fields, watch = {}) {
    return read(await this.#post(path, picture, fields, watch, "image/png"), "blob");
  }

  #post(path, picture, fields, watch, accept) {
    const body = new FormData();
    for (const [name, value] of fields) body.append(name, value);
    body.append("image", picture.blob, picture.name);
    return this.#ask(path, { method: "POST", body, id: newId(), accept }, watch);
  }

  /** One request, repeated for as long as the service says that a later one may do. */
  async #ask(path, { method = "GET", body, id, accept = "application/json" }, watch) {
    for (let failures = 0; ; ) {
      const key = this.#key;
      const stop = id && watch.onProgress ? this.#follow(id, watch) : () => {};
      const request = { method, body, signal: watch.signal };
      const response = await this.#fetch(path, request, accept, id).finally(stop);
      if (response.ok) return response;
      const error = new ServiceError(response.status, await errorOf(response));
      if (response.status === 401) {
        if (key === this.#key && !(await this.#obtainKey())) throw error;
        continue;
      }
      if (error.code === "worker_failed" && ++failures === MOST_FAILURES) throw error;
      if (response.status !== 429 && response.status !== 503) throw error;
      await waitFor(Number(response.headers.get("Retry-After")) || USUAL_WAIT_S, error, watch);
    }
  }

  async #fetch(path, request, accept, id) {
    const headers = { Accept: accept };
    if (id) headers["X-Request-ID"] = id;
    if (this.#key) headers.Authorization = `Bearer ${this.#key}`;
    try {
      return await fetch(path, { ...request, headers, cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Unreachable();
    }
  }

  /** Asks the reader for a key, once for all requests that wait for it. */
  async #obtainKey() {
    this.#asking ??= this.askForKey(this.hasKey).finally(() => {
      this.#asking = null;
    });
    const key = await this.#asking;
    if (key) this.#key = key;
    return Boolean(key);
  }

  /** Looks how far a request is, until the function that is returned is called. */
  #follow(id, watch) {
    const started = performance.now();
    let timer = setTimeout(look, POLL_AFTER_MS);
    const client = this;
    async function look() {
      let known = {};
      try {
        const response = await client.#fetch(`v1/requests/${id}`, { signal: watch.signal }, "application/json");
        if (response.ok) known = await response.json();
      } catch {
        // The request itself says what is wrong.
      }
      if (timer === null) return;
      watch.onProgress({ elapsed_s: (performance.now() - started) / 1e3, ...known });
      timer = setTimeout(look, POLL_EVERY_MS);
    }
    return () => {
      clearTimeout(timer);
      timer = null;
    };
  }
}

/** The body of a response, as "json" or a "blob". */
async function read(response, kind) {
  try {
    return await response[kind]();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable();
  }
}

async function errorOf(response) {
  try {
    const reply = await response.json();
    if (typeof reply.error === "string") return reply;
  } catch {
    // Not the service's: a proxy in between, for example.
  }
  return { error: `${response.status} ${response.statusText || "without an explanation"}`, code: "unknown" };
}

/** Counts down, and tells so each second. */
async function waitFor(seconds, error, { signal, onWait }) {
  for (let left = Math.ceil(seconds); left > 0; left--) {
    onWait?.({ seconds: left, error });
    await new Promise((resolve, reject) => {
      const timer = setTimeout(done, 1000);
      signal?.addEventListener("abort", done, { once: true });
      function done() {
        clearTimeout(timer);
        signal?.removeEventListener("abort", done);
        if (signal?.aborted) reject(signal.reason);
        else resolve();
      }
    });
  }
  onWait?.(null);
}

/** An id that nobody else has; `crypto.randomUUID` is missing where a page comes without TLS. */
function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return `page-${[...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
