// One answer on the page: thoughts, text or tokens, calls of tools, what went wrong, and numbers.

import { partsOf } from "./answer.js";
import { MarkdownView } from "./blocks.js";
import { callElement } from "./calls.js";
import { button, copyButton, h, say } from "./dom.js";
import { ProblemView } from "./problem.js";
import { legend, TokenView } from "./tokens.js";
import { factsOf } from "./words.js";

const FENCE = "`".repeat(8);

// What was asked for as JSON is no Markdown.
const isData = ({ request }) => (request?.response_format?.type ?? "text") !== "text";

export class AnswerView {
  // `label` is the lane's, or "" where there is only one. `actions` is what its buttons do:
  // again, code, retry, openKey, openField, sendResults.
  constructor(answer, label, actions) {
    this.answer = answer;
    this.label = label;
    this.actions = actions;
    this.showsTokens = answer.tokens.length > 0;
    this.root = h("div", { class: "answer", role: "group", "aria-label": label ? `Answer ${label}` : "Answer" });
    this.lane = h("p", { class: "lane" });
    this.body = h("div", { class: "body" });
    this.text = h("div", { class: "text" });
    this.tokens = h("div", { class: "tokens", hidden: true });
    this.calls = h("div", { class: "calls" });
    this.problem = h("div");
    this.foot = h("footer");
    this.legend = legend();
    this.body.append(this.text, this.tokens, this.legend);
    this.root.append(this.lane, this.body, this.calls, this.problem, this.foot);
    this.markdown = new MarkdownView(this.text);
    this.tokenView = new TokenView(this.tokens, label ? `Answer ${label}` : "Answer");
    this.update();
  }

  // After a chunk: only what grows.
  update() {
    const { answer } = this, { thought, text, thinking } = partsOf(answer);
    const isOpen = answer.state === "waiting" || answer.state === "streaming";
    this.root.dataset.state = isOpen && answer.note ? "waiting" : answer.state;
    if (this.label) say(this.lane, `${this.label}: ${answer.settings ?? ""}`);
    this.root.setAttribute("aria-busy", String(isOpen));
    if (answer.tokens.length && !this.tokens.childElementCount) this.showsTokens = true;
    this.showThought(thought.trim(), thinking);
    this.markdown.show(text && isData(answer) ? `${FENCE}json\n${text}` : text);
    this.tokenView.show(answer.tokens);
    this.showForm();
    if (isOpen && (answer.state === "waiting" || answer.note)) this.showWaiting(answer.note ?? "");
    else this.waiting?.remove();
    if (!isOpen) this.finish();
  }

  // As text, or as tokens, which are all that the model wrote, thoughts included.
  showForm() {
    this.tokens.hidden = this.legend.hidden = !this.showsTokens;
    this.text.hidden = this.showsTokens;
    if (this.details) this.details.hidden = this.showsTokens;
  }

  showWaiting(note) {
    this.waiting ??= h("p", { class: "waiting" }, h("span"));
    say(this.waiting.firstChild, note);
    if (!this.waiting.isConnected) this.body.append(this.waiting);
  }

  showThought(thought, thinking) {
    if (!thought) return;
    if (!this.details) {
      this.summary = h("summary");
      this.thought = h("div", { class: "thought" });
      this.details = h("details", { class: "thoughts", open: thinking }, this.summary, this.thought);
      this.body.before(this.details);
    }
    if (this.wasThinking && !thinking) this.details.open = false;
    this.wasThinking = thinking;
    say(this.summary, thinking ? "Thinking…" : "Thoughts");
    say(this.thought, thought);
  }

  finish() {
    const { answer, actions } = this;
    const isLast = Boolean(actions.sendResults);
    this.calls.replaceChildren(...answer.tools.map((tool, n) => callElement(tool, n, isLast)));
    if (isLast && answer.tools.length && answer.state === "done") this.calls.append(this.resultButton());
    this.problem.replaceChildren(...(answer.error ? [new ProblemView(answer.error, actions).root] : []));
    this.foot.replaceChildren(...[this.facts(), this.buttons()].filter(Boolean));
  }

  resultButton() {
    const collect = () => this.answer.tools.map(({ id }, n) => (
      { id, text: this.calls.querySelectorAll("textarea")[n].value }
    ));
    return button("Send the results", () => this.actions.sendResults(collect()), { class: "firm" });
  }

  facts() {
    const facts = factsOf(this.answer);
    return facts.length > 0 && h("ul", { class: "facts", "aria-label": "Numbers" }, facts.map(
      ({ name, text, title }) => h("li", { class: name === "class" ? `key ${text}` : null, "data-name": name, title }, text),
    ));
  }

  buttons() {
    const { answer, actions } = this, text = () => partsOf(answer).text.trim();
    return h("div", { class: "actions" },
      text() && copyButton(text, "Copy", { title: "Copy the answer" }),
      actions.again && answer.error?.action !== "retry" && button("Again", actions.again, { title: "Answer once more" }),
      answer.request && button("Code", actions.code, { title: "This request as curl or Python" }),
      answer.tokens.length > 0 && this.tokenButton());
  }

  tokenButton() {
    return button("Tokens", ({ target }) => {
      this.showsTokens = !this.showsTokens;
      target.setAttribute("aria-pressed", String(this.showsTokens));
      this.showForm();
    }, { "aria-pressed": String(this.showsTokens), title: "Coloured by probability, or as text" });
  }
}
