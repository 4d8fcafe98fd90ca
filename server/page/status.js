// What the server is doing: asked when the page opens and whenever something failed, and again
// until it is ready.

import { authorization } from "./stream.js";

export class Status {
  // `changed(state)` is called with {kind, text, share}: kind is ready, starting, draining, dead,
  // gone or locked; share is how far a start is, from 0 to 1, or null.
  constructor(changed, getKey) {
    this.changed = changed;
    this.getKey = getKey;
    this.state = { kind: "unknown", text: "", share: null };
    this.model = "";
    this.waiting = [];
  }

  get isReady() { return this.state.kind === "ready"; }

  get isLocked() { return this.state.kind === "locked"; }

  check() { return (this.checking ??= this.look().finally(() => { this.checking = null; })); }

  async look() {
    clearTimeout(this.timer);
    this.state = await this.ask();
    this.changed(this.state);
    if (this.isReady) for (const go of this.waiting.splice(0)) go();
    else if (!this.isLocked) {
      this.timer = setTimeout(() => this.check(), this.state.kind === "starting" ? 500 : 3000);
    }
  }

  async ask() {
    try {
      const response = await fetch("/health/ready", { cache: "no-store", headers: authorization(this.getKey()) });
      if (isLocked(response)) return this.locked();
      const found = readinessOf(await response.json());
      return found.kind === "ready" ? await this.askModel(found) : found;
    } catch {
      return { kind: "gone", text: "The server does not answer.", share: null };
    }
  }

  async askModel(found) {
    const response = await fetch("/v1/models", { headers: authorization(this.getKey()) });
    if (isLocked(response)) return this.locked();
    const [model] = (await response.json()).data;
    this.model = model.id;
    this.context = model.max_model_len;
    return found;
  }

  locked() {
    const text = this.getKey() ? "This API key does not open this server." : "This server wants an API key.";
    return { kind: "locked", text, share: null };
  }

  // Resolves when the server is ready; rejects when `signal` ends the wait.
  untilReady(signal) {
    return new Promise((resolve, reject) => {
      this.waiting.push(resolve);
      signal.addEventListener("abort", () => reject(signal.reason), { once: true });
      this.check();
    });
  }
}

const isLocked = ({ status }) => status === 401 || status === 403;

export function readinessOf(body) {
  const { status, phase, fraction, open, error, last_death: death } = body;
  if (status === "ready") return { kind: "ready", text: "", share: null };
  if (status === "starting" || status === "restarting") {
    const share = Number(fraction) || 0, what = phase ? `: ${phase}` : "";
    const again = status === "restarting" ? ` again${death?.message ? ` (${death.message})` : ""}` : "";
    return { kind: "starting", text: `The engine is starting${again}${what}, ${Math.round(share * 100)} %`, share };
  }
  if (status === "draining") {
    return { kind: "draining", text: `The server is shutting down; ${open ?? 0} requests are left.`, share: null };
  }
  return { kind: "dead", text: `The engine is not running${error ? `: ${error}` : "."}`, share: null };
}
