// The dialog that shows a request as something to paste.

import { curl, python } from "./code.js";
import { $, copyButton, say } from "./dom.js";

const WORDS = { curl, python };

export class CodeView {
  constructor() {
    this.dialog = $("code");
    this.tabs = [...this.dialog.querySelectorAll("[role=tab]")];
    for (const tab of this.tabs) {
      tab.addEventListener("click", () => this.choose(tab));
      tab.addEventListener("keydown", (event) => this.turn(event));
    }
    $("code-copy").append(copyButton(() => $("code-text").textContent, "Copy", { class: "firm" }));
    $("code-close").addEventListener("click", () => this.dialog.close());
    this.dialog.addEventListener("click", ({ target }) => { if (target === this.dialog) this.dialog.close(); });
  }

  open(body, isKeyed) {
    this.arguments = [body, location.origin, isKeyed];
    this.choose(this.tabs.find((tab) => tab.ariaSelected === "true"));
    this.dialog.showModal();
  }

  turn(event) {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    const next = this.tabs.find((tab) => tab.ariaSelected !== "true");
    this.choose(next);
    next.focus();
  }

  choose(chosen) {
    for (const tab of this.tabs) {
      tab.ariaSelected = String(tab === chosen);
      tab.tabIndex = tab === chosen ? 0 : -1;
    }
    $("code-text").setAttribute("aria-labelledby", chosen.id);
    say($("code-text").firstChild, WORDS[chosen.dataset.words](...this.arguments));
  }
}
