// What the browser keeps: the conversation, the settings and the look in localStorage; the API key
// in sessionStorage, which ends with the tab.

import { emptyTalk, settle } from "./talk.js";

const TALK = "prelude.talk", LAST = "prelude.talk.last";
const SETTINGS = "prelude.settings", VIEW = "prelude.view", KEY = "prelude.key";

export class Store {
  constructor(local = localStorage, session = sessionStorage) {
    this.local = local;
    this.session = session;
  }

  get talk() {
    const found = this.read(TALK);
    return Array.isArray(found?.turns) ? settle(found) : emptyTalk();
  }

  // The tokens' probabilities are the first thing to go where there is no room.
  keepTalk(talk) {
    if (this.write(TALK, talk)) return;
    this.write(TALK, JSON.parse(JSON.stringify(talk, (name, value) => (name === "tokens" ? [] : value))));
  }

  // Puts the conversation aside, in the place of the one before.
  shelve() {
    const found = this.local.getItem(TALK);
    if (this.talk.turns.length && found) this.local.setItem(LAST, found);
    this.local.removeItem(TALK);
  }

  get hasLast() { return this.local.getItem(LAST) !== null; }

  unshelve() {
    const found = this.local.getItem(LAST);
    this.local.removeItem(LAST);
    if (found) this.local.setItem(TALK, found);
    return this.talk;
  }

  get settings() { return { a: {}, b: null, ...this.read(SETTINGS) }; }
  set settings(value) { this.write(SETTINGS, value); }

  get view() { return { panel: null, compare: false, ...this.read(VIEW) }; }
  set view(value) { this.write(VIEW, value); }

  get key() { return this.session.getItem(KEY) ?? ""; }
  set key(value) { value ? this.session.setItem(KEY, value) : this.session.removeItem(KEY); }

  read(name) {
    try {
      return JSON.parse(this.local.getItem(name));
    } catch {
      return null;
    }
  }

  write(name, value) {
    try {
      this.local.setItem(name, JSON.stringify(value));
      return true;
    } catch {
      return false; // full, or forbidden: the page works without
    }
  }
}
