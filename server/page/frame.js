// When the page is painted, and where it is scrolled to.

import { $ } from "./dom.js";

const NEAR = 80; // pixels from the end within which a reader follows
const CHEAP_MS = 8;
const LONGEST_REST_MS = 500;

export class Frame {
  constructor() {
    this.log = $("log");
    this.pending = new Map();
    this.next = 0;
    this.timer = 0;
    this.restMs = 0;
  }

  // Paint with the next frame; only the last of several for the same key. After a paint that took
  // long the page rests three times as long, so that reading and scrolling stay possible.
  soon(key, paint) {
    this.pending.set(key, paint);
    this.timer ||= setTimeout(() => {
      this.next = requestAnimationFrame(() => this.flush());
    }, this.restMs);
  }

  now(key, paint) {
    this.pending.set(key, paint);
    this.flush();
  }

  flush() {
    clearTimeout(this.timer);
    cancelAnimationFrame(this.next);
    this.timer = 0;
    const all = [...this.pending.values()], startMs = performance.now();
    this.pending.clear();
    this.following(() => { for (const paint of all) paint(); });
    const tookMs = performance.now() - startMs;
    this.restMs = tookMs < CHEAP_MS ? 0 : Math.min(3 * tookMs, LONGEST_REST_MS);
  }

  // The reader is only taken along while at the end.
  following(change) {
    const { log } = this, isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR;
    change();
    if (isAtEnd) this.toEnd();
  }

  toEnd() { this.log.scrollTop = this.log.scrollHeight; }
}
