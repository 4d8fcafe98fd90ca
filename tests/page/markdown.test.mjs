// Markdown as models write it, complete or not, and as nobody should write it.

import assert from "node:assert/strict";
import { test } from "node:test";

import { GrowingBlocks, parseBlocks, parseSpans } from "./page/markdown.js";

const text = (value) => ({ kind: "text", text: value });
const bare = ({ source, line, ...block }) => ({
  ...block,
  ...(block.items ? { items: block.items.map((item) => item.map(bare)) } : {}),
  ...(block.blocks ? { blocks: block.blocks.map(bare) } : {}),
});
const blocks = (source) => parseBlocks(source).map(bare);
const paragraph = (value) => ({ kind: "paragraph", spans: [text(value)] });

test("paragraphs keep their line breaks", () => {
  assert.deepEqual(blocks("one\ntwo\n\nthree"), [paragraph("one\ntwo"), paragraph("three")]);
});

test("code, with its language, its blank lines, and no end yet", () => {
  const code = { kind: "code", lang: "python", text: "if x:\n\n    **y**" };
  assert.deepEqual(blocks("```python\nif x:\n\n    **y**\n```\nafter"), [code, paragraph("after")]);
  assert.deepEqual(blocks("```python\nif x:\n\n    **y**"), [code]);
  assert.deepEqual(blocks("````\n```\n````"), [{ kind: "code", lang: "", text: "```" }]);
});

test("headings, rules and quotes", () => {
  assert.deepEqual(blocks("## A b ##\n---\n> q\n> r"), [
    { kind: "heading", level: 2, spans: [text("A b")] },
    { kind: "rule" },
    { kind: "quote", blocks: [paragraph("q\nr")] },
  ]);
});

test("lists, nested, numbered from where they begin, with code inside", () => {
  const [list] = blocks("3. one\n4. two\n   - deep\n     more\n\n   ```js\n   x\n   ```\n\nafter");
  assert.deepEqual([list.ordered, list.start, list.items.length], [true, 3, 2]);
  assert.deepEqual(list.items[1].map((block) => block.kind), ["paragraph", "list", "code"]);
  assert.deepEqual(list.items[1][1].items[0], [paragraph("deep\nmore")]);
  assert.equal(list.items[1][2].text, "x");
});

test("items apart by blank lines are one list", () => {
  assert.equal(blocks("- a\n\n- b\n\n- c")[0].items.length, 3);
  assert.deepEqual(blocks("- a\n1. b").map((block) => block.ordered), [false, true]);
});

test("a table needs its line", () => {
  const [table] = blocks("| a | b |\n|---|:-:|\n| 1 | **2** |");
  assert.deepEqual(table.rows[0], [[text("a")], [text("b")]]);
  assert.deepEqual(table.rows[1][1], [{ kind: "strong", spans: [text("2")] }]);
  assert.equal(blocks("a | b\nc | d")[0].kind, "paragraph");
});

test("spans", () => {
  assert.deepEqual(parseSpans("a **b *c*** `d*` e"), [
    text("a "),
    { kind: "strong", spans: [text("b "), { kind: "em", spans: [text("c")] }] },
    text(" "),
    { kind: "code", text: "d*" },
    text(" e"),
  ]);
  assert.deepEqual(parseSpans("``a`b``"), [{ kind: "code", text: "a`b" }]);
  assert.deepEqual(parseSpans("\\*no\\*"), [text("*no*")]);
});

for (const plain of ["2 * 3 * 4", "snake_case_name", "**open", "`open", "a ** b ** c", "*", "a__b__c"]) {
  test(`what only looks like a mark stays: ${plain}`, () => {
    assert.equal(parseSpans(plain).map((span) => span.text).join(""), plain);
  });
}

test("links go to the web only", () => {
  const [link] = parseSpans("[a](https://example.com/x?y=1)");
  assert.deepEqual([link.kind, link.href], ["link", "https://example.com/x?y=1"]);
  for (const bad of ["javascript:alert(1)", "data:text/html,x", "//x", "file:///etc"]) {
    assert.ok(parseSpans(`[a](${bad})`).every((span) => span.kind === "text"));
  }
});

const PIECES = ["a", "b c", "**", "*", "_", "`", "```", "\n", "\n\n", "- ", "1. ", "> ", "# ", "| ", "|---|", "[d](", ")", "  ", "\\", "---"];

// Texts of such pieces, the same ones every time.
function* texts(count) {
  let seed = 1;
  const random = () => (seed = (seed * 48271) % 2147483647) / 2147483647;
  const piece = () => PIECES[Math.floor(random() * PIECES.length)];
  for (let n = 0; n < count; n += 1) yield Array.from({ length: 1 + random() * 14 }, piece);
}

// Every character of the text, in order, without the marks.
const letters = (value) => value.replace(/[^a-z]/g, "");
const textOf = (node) => {
  if (Array.isArray(node)) return node.map(textOf).join("");
  return [node.lang, node.text, node.spans, node.items, node.blocks, node.rows].map((part) => (
    part === undefined ? "" : typeof part === "string" ? part : textOf(part)
  )).join("");
};

test("no letter is lost or doubled, whatever is written and wherever it breaks off", () => {
  for (const pieces of texts(3000)) {
    const source = pieces.join("");
    assert.equal(letters(textOf(parseBlocks(source))), letters(source), JSON.stringify(source));
  }
});

test("neither depth nor length is a way to hang the page", () => {
  const evil = ["> ", "- ", "**a ", "*a", "_a ", "`a ``", "[a](", "[", "\\", "***", "| "];
  for (const piece of evil) parseBlocks(piece.repeat(20000));
  parseBlocks(Array.from({ length: 2000 }, (_, n) => `${"  ".repeat(n)}- x`).join("\n"));
});

test("a text that grows has the same blocks as one that is whole", () => {
  for (const pieces of texts(2000)) {
    const growing = new GrowingBlocks();
    let text = "";
    for (const piece of pieces) {
      text += piece;
      assert.deepEqual(growing.parse(text).map(bare), blocks(text), JSON.stringify(text));
    }
    assert.deepEqual(growing.parse("other").map(bare), blocks("other"));
  }
});
