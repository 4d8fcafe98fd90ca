// What went wrong, in words, with what can be done about it.

import { button, h } from "./dom.js";

export class ProblemView {
  constructor({ title, text, action, retryS, field }, actions) {
    this.root = h("div", { class: "problem", role: "alert" },
      h("p", {}, h("strong", {}, title), " ", text), this.button(action, { retryS, field }, actions));
  }

  button(action, { retryS, field }, actions) {
    if (action === "key") return button("Enter a key", actions.openKey, { class: "firm" });
    if (action === "field") return button("Show the setting", () => actions.openField(field), { class: "firm" });
    if (action !== "retry" || !actions.retry) return null;
    const made = button("Try again", actions.retry, { class: "firm" });
    if (retryS) this.countDown(made, Date.now() + retryS * 1e3);
    return made;
  }

  // The button says how long the server asked to be left alone; only its end is spoken.
  countDown(made, untilMs) {
    made.disabled = true;
    const tick = () => {
      const left = Math.ceil((untilMs - Date.now()) / 1e3);
      made.disabled = left > 0;
      made.textContent = left > 0 ? `Try again in ${left} s` : "Try again";
      if (left > 0) setTimeout(tick, 250);
    };
    tick();
  }
}
