// The part of Markdown that models write, as a tree: blocks of lines, and spans within a line.
// Time is linear in the text, and so is depth bounded, whatever a model writes.

const DEEPEST = 6;
const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`]*?)\s*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const RULE = /^ {0,3}(?:(?:\* *){3,}|(?:- *){3,}|(?:_ *){3,})$/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])( +|$)(.*)$/;
const QUOTE = /^ {0,3}> ?/;
const DIVIDER = /^ {0,3}\|?(?: *:?-+:? *\|)+(?: *:?-+:?)? *\|?$/;

// Blocks: {kind: "code", lang, text} | {kind: "heading", level, spans} | {kind: "rule"} |
// {kind: "list", ordered, start, items: [blocks]} | {kind: "quote", blocks} |
// {kind: "table", rows: [[spans]]} | {kind: "paragraph", spans}. Each has `source`, its own text,
// and `line`, where it begins.
export const parseBlocks = (text) => blocksOf(linesOf(text), 0);

const linesOf = (text) => text.replaceAll("\t", "    ").split(/\r\n|\n|\r/);

// The blocks of a text that grows. Only the last two are parsed again: what its last line is may
// change with every character, and with it whether the line belongs to the block before.
export class GrowingBlocks {
  constructor() {
    Object.assign(this, { text: "", kept: [], line: 0 });
  }

  parse(text) {
    if (!text.startsWith(this.text)) Object.assign(this, { kept: [], line: 0 });
    this.text = text;
    const found = blocksOf(linesOf(text).slice(this.line), 0), open = found.splice(-2);
    this.kept.push(...found);
    if (found.length) this.line += open[0].line;
    return [...this.kept, ...open];
  }
}

function blocksOf(lines, depth) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) { at += 1; continue; }
    const [block, end] = blockAt(lines, at, depth);
    blocks.push({ ...block, source: lines.slice(at, end).join("\n"), line: at });
    at = end;
  }
  return blocks;
}

function blockAt(lines, at, depth) {
  const line = lines[at];
  const fence = line.match(FENCE);
  if (fence) return codeAt(lines, at, fence);
  const heading = line.match(HEADING);
  if (heading) return [{ kind: "heading", level: heading[1].length, spans: parseSpans(heading[2]) }, at + 1];
  if (RULE.test(line)) return [{ kind: "rule" }, at + 1];
  if (depth < DEEPEST && ITEM.test(line)) return listAt(lines, at, depth);
  if (depth < DEEPEST && QUOTE.test(line)) return quoteAt(lines, at, depth);
  if (isTable(lines, at)) return tableAt(lines, at);
  let end = at + 1;
  while (end < lines.length && !beginsBlock(lines, end, depth)) end += 1;
  return [{ kind: "paragraph", spans: parseSpans(lines.slice(at, end).join("\n")) }, end];
}

function beginsBlock(lines, at, depth) {
  const line = lines[at];
  if (!line.trim() || FENCE.test(line) || HEADING.test(line) || RULE.test(line)) return true;
  return (depth < DEEPEST && (ITEM.test(line) || QUOTE.test(line))) || isTable(lines, at);
}

function codeAt(lines, at, [, mark, lang]) {
  const isEnd = (line) => {
    const text = line.trim();
    return text.length >= mark.length && text === mark[0].repeat(text.length);
  };
  let end = at + 1;
  while (end < lines.length && !isEnd(lines[end])) end += 1;
  const text = lines.slice(at + 1, end).join("\n");
  return [{ kind: "code", lang, text }, Math.min(end + 1, lines.length)];
}

function listAt(lines, at, depth) {
  const ordered = /\d/.test(lines[at].match(ITEM)[2]);
  const start = ordered ? parseInt(lines[at].match(ITEM)[2], 10) : null;
  const items = [];
  let end = at;
  while (end < lines.length) {
    const item = lines[end].match(ITEM);
    if (!item || /\d/.test(item[2]) !== ordered || RULE.test(lines[end])) break;
    const [inside, next] = itemAt(lines, end, item);
    items.push(blocksOf(inside, depth + 1));
    end = next;
  }
  return [{ kind: "list", ordered, start, items }, end];
}

// The item's lines without its indentation, and where it ends.
function itemAt(lines, at, [, before, mark, space, first]) {
  const width = before.length + mark.length + Math.min(Math.max(space.length, 1), 4);
  const inside = [first];
  let end = at + 1;
  for (; end < lines.length; end += 1) {
    const line = lines[end], indent = line.search(/\S/);
    const isLazy = indent < 2 && (!inside.at(-1).trim() || ITEM.test(line) || FENCE.test(line) || HEADING.test(line));
    if (indent >= 0 && isLazy) break;
    inside.push(indent < 0 ? "" : line.slice(Math.min(indent, width)));
  }
  while (inside.length > 1 && !inside.at(-1)) { inside.pop(); }
  return [inside, end];
}

function quoteAt(lines, at, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end += 1;
  const inside = lines.slice(at, end).map((line) => line.replace(QUOTE, ""));
  return [{ kind: "quote", blocks: blocksOf(inside, depth + 1) }, end];
}

const isTable = (lines, at) => lines[at].includes("|") && DIVIDER.test(lines[at + 1] ?? "");

function tableAt(lines, at) {
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|")) end += 1;
  const rows = [lines[at], ...lines.slice(at + 2, end)].map((line) => (
    line.trim().replace(/^\|/, "").replace(/\|$/, "").split("|").map((cell) => parseSpans(cell.trim()))
  ));
  return [{ kind: "table", rows }, end];
}

// Spans: {kind: "text" | "code", text} | {kind: "strong" | "em", spans} | {kind: "link", spans, href}.
export function parseSpans(text, depth = 0) {
  const spans = [], gone = new Set(); // closing marks that do not come any more
  let plain = "", at = 0;
  const flush = () => { if (plain) spans.push({ kind: "text", text: plain }); plain = ""; };
  while (at < text.length) {
    const found = spanAt(text, at, depth, gone);
    if (found) {
      flush();
      spans.push(found.span);
      at = found.end;
      continue;
    }
    const isEscape = text[at] === "\\" && /[\\`*_{}[\]()#+\-.!|>~]/.test(text[at + 1] ?? "");
    const run = isEscape ? text.slice(at + 1, at + 2) : text.slice(at).match(/^(?:`+|\*+|_+|[^\\`*_[]+|.)/s)[0];
    plain += run;
    at += run.length + (isEscape ? 1 : 0);
  }
  flush();
  return spans;
}

function spanAt(text, at, depth, gone) {
  const mark = text[at];
  if (mark === "`") return codeSpan(text, at, gone);
  if (depth >= DEEPEST) return null;
  if (mark === "*" || mark === "_") return emphasis(text, at, depth, gone);
  return mark === "[" ? link(text, at, depth) : null;
}

function closing(text, mark, from, gone) {
  if (gone.has(mark)) return -1;
  const end = text.indexOf(mark, from);
  if (end < 0) gone.add(mark);
  return end;
}

function codeSpan(text, at, gone) {
  const mark = text.slice(at).match(/^`+/)[0];
  if (mark.length > 3) return null;
  const end = closing(text, mark, at + mark.length, gone);
  if (end < 0) return null;
  const inside = text.slice(at + mark.length, end);
  const isPadded = /^ .* $/s.test(inside) && inside.trim();
  return { span: { kind: "code", text: isPadded ? inside.slice(1, -1) : inside }, end: end + mark.length };
}

function emphasis(text, at, depth, gone) {
  const isStrong = text[at + 1] === text[at], mark = isStrong ? text[at].repeat(2) : text[at];
  const from = at + mark.length;
  if (/\s/.test(text[from] ?? " ") || (mark[0] === "_" && /\w/.test(text[at - 1] ?? " "))) return null;
  let end = closing(text, mark, from + 1, gone);
  if (end < 0 || /\s/.test(text[end - 1])) return null;
  if (isStrong && text[end + 2] === text[at]) end += 1; // ***both***
  if (mark[0] === "_" && /\w/.test(text[end + mark.length] ?? " ")) return null;
  const spans = parseSpans(text.slice(from, end), depth + 1);
  return { span: { kind: isStrong ? "strong" : "em", spans }, end: end + mark.length };
}

// Only to the web: what else a link could do is not for a model to say.
function link(text, at, depth) {
  const found = text.slice(at, at + 2500).match(/^\[([^\]\n]{1,400})\]\((https?:\/\/[^\s()<>"]{1,2000})\)/);
  if (!found) return null;
  return { span: { kind: "link", spans: parseSpans(found[1], depth + 1), href: found[2] }, end: at + found[0].length };
}
