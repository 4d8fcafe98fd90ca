// Server-sent events out of text that arrives in pieces of any size.

export class EventParser {
  constructor() {
    this.rest = "";
    this.lines = [];
  }

  // The events that `text` completes: {data, event, id}. Comments are skipped.
  push(text) {
    const all = this.rest + text;
    // a carriage return at the end may be half of a line's end
    const end = all.endsWith("\r") ? all.length - 1 : all.length;
    const lines = all.slice(0, end).split(/\r\n|\n|\r/);
    this.rest = lines.pop() + all.slice(end);
    const events = [];
    for (const line of lines) {
      if (line !== "") this.lines.push(line);
      else if (this.lines.length) {
        const event = readEvent(this.lines.splice(0));
        if (event) events.push(event);
      }
    }
    return events;
  }
}

function readEvent(lines) {
  const data = [], found = { event: "message", id: null };
  for (const line of lines) {
    const at = line.indexOf(":");
    if (at === 0) continue;
    const name = at < 0 ? line : line.slice(0, at);
    const value = at < 0 ? "" : line.slice(at + 1).replace(/^ /, "");
    if (name === "data") data.push(value);
    else if (name === "event" || name === "id") found[name] = value;
  }
  return data.length ? { ...found, data: data.join("\n") } : null;
}
