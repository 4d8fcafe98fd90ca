// When the page is painted, and where it is scrolled to.

import { $ } from "./dom.js";

const NEAR = 80; // pixels from the end within which a reader follows

export class Frame {
  constructor() {
    this.log = $("log");
    this.pending = new Map();
    this.next = 0;
  }

  // Paint with the next frame; only the last of several for the same key.
  soon(key, paint) {
    this.pending.set(key, paint);
    this.next ||= requestAnimationFrame(() => this.flush());
  }

  now(key, paint) {
    this.pending.set(key, paint);
    this.flush();
  }

  flush() {
    cancelAnimationFrame(this.next);
    this.next = 0;
    const all = [...this.pending.values()];
    this.pending.clear();
    this.following(() => { for (const paint of all) paint(); });
  }

  // The reader is only taken along while at the end.
  following(change) {
    const { log } = this, isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR;
    change();
    if (isAtEnd) this.toEnd();
  }

  toEnd() { this.log.scrollTop = this.log.scrollHeight; }
}
