// One turn on the page: the question, which can be rewritten, and its answers side by side.

import { AnswerView } from "./answer_view.js";
import { resultElement } from "./calls.js";
import { button, copyButton, h } from "./dom.js";

export class TurnView {
  // `actions` as for answers, each with the lane in front, and `rewrite(text)`.
  constructor(turn, actions) {
    this.turn = turn;
    this.actions = actions;
    this.views = {};
    this.question = h("div", { class: "question" });
    this.lanes = h("div", { class: "lanes" });
    this.root = h("article", { class: "turn" }, this.question, this.lanes);
    this.showQuestion();
  }

  showQuestion() {
    const { text, results } = this.turn.question;
    if (results) return this.question.replaceChildren(...results.map(resultElement));
    this.question.replaceChildren(
      h("div", { class: "bubble" }, text),
      h("div", { class: "actions" },
        copyButton(() => text, "Copy", { title: "Copy the question" }),
        button("Edit", () => this.edit(), { title: "Rewrite it; what follows is asked anew", "data-edit": true })),
    );
  }

  edit() {
    const before = this.turn.question.text;
    const box = h("textarea", { rows: "3", "aria-label": "Question", value: before });
    const send = () => {
      const text = box.value.trim();
      if (text) this.actions.rewrite(text);
    };
    const cancel = () => {
      this.showQuestion();
      this.question.querySelector("[data-edit]").focus();
    };
    box.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { event.stopPropagation(); cancel(); }
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
    });
    this.question.replaceChildren(
      h("div", { class: "rewrite" }, box, h("div", { class: "actions" },
        button("Cancel", cancel), button("Send", send, { class: "firm" }))),
    );
    box.focus();
  }

  // `isLast`: what follows from the answer can still be changed.
  showLanes(lanes, { isLast, labels }) {
    this.views = {};
    for (const lane of lanes) {
      const answer = this.turn.answers[lane];
      if (!answer) continue;
      const view = new AnswerView(answer, labels[lane], this.actionsFor(lane, isLast));
      this.views[lane] = view;
    }
    this.lanes.dataset.count = String(Object.keys(this.views).length);
    this.lanes.replaceChildren(...Object.values(this.views).map((view) => view.root));
  }

  actionsFor(lane, isLast) {
    const { again, code, sendResults, openKey, openField } = this.actions;
    return {
      code: () => code(lane),
      openKey,
      openField: (field) => openField(lane, field),
      again: isLast ? () => again(lane) : null,
      retry: isLast ? () => again(lane) : null,
      sendResults: isLast ? (results) => sendResults(lane, results) : null,
    };
  }
}
