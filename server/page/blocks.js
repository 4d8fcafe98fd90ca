// Markdown's tree as elements. While a text grows, only the blocks that changed are made anew.

import { copyButton, h } from "./dom.js";
import { GrowingBlocks } from "./markdown.js";

export class MarkdownView {
  constructor(target) {
    this.target = target;
    this.growing = new GrowingBlocks();
    this.sources = [];
  }

  show(text) {
    const blocks = this.growing.parse(text);
    let same = 0;
    while (same < blocks.length && this.sources[same] === blocks[same].source) same += 1;
    while (this.target.children.length > same) this.target.lastChild.remove();
    this.target.append(...blocks.slice(same).map(blockElement));
    this.sources = blocks.map((block) => block.source);
  }
}

const MAKERS = {
  code: codeElement,
  heading: ({ level, spans }) => h(`h${Math.min(level + 2, 6)}`, {}, spansOf(spans)),
  rule: () => h("hr"),
  list: ({ ordered, start, items }) => (
    h(ordered ? "ol" : "ul", { start: start === 1 ? null : start }, items.map(itemElement))
  ),
  quote: ({ blocks }) => h("blockquote", {}, blocks.map(blockElement)),
  table: tableElement,
  paragraph: ({ spans }) => h("p", {}, spansOf(spans)),
};

const blockElement = (block) => MAKERS[block.kind](block);

// An item of a single paragraph needs no paragraph of its own.
function itemElement(blocks) {
  const [first, ...rest] = blocks;
  if (first?.kind !== "paragraph") return h("li", {}, blocks.map(blockElement));
  return h("li", {}, spansOf(first.spans), rest.map(blockElement));
}

function codeElement({ lang, text }) {
  const bar = h("figcaption", {}, h("span", {}, lang || "text"), copyButton(() => text));
  return h("figure", { class: "code" }, bar, h("pre", { tabindex: "0" }, h("code", {}, text)));
}

function tableElement({ rows: [head, ...rows] }) {
  const row = (cells, tag) => h("tr", {}, cells.map((spans) => h(tag, {}, spansOf(spans))));
  const table = h("table", {}, h("thead", {}, row(head, "th")), h("tbody", {}, rows.map((one) => row(one, "td"))));
  return h("div", { class: "scroller", tabindex: "0" }, table);
}

const spansOf = (spans) => spans.map((span) => {
  if (span.kind === "text") return span.text;
  if (span.kind === "code") return h("code", {}, span.text);
  if (span.kind !== "link") return h(span.kind, {}, spansOf(span.spans));
  return h("a", { href: span.href, target: "_blank", rel: "noopener noreferrer" }, spansOf(span.spans));
});
