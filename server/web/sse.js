// Parser of server-sent events, by the HTML standard. Pure.

/** Takes text in pieces and returns the complete events; comments are ignored. */
export class EventReader {
  constructor() {
    this.rest = "";
    this.event = blankEvent();
    this.start = true;
  }

  feed(text) {
    if (this.start && text) {
      text = text.replace(/^\uFEFF/, "");
      this.start = false;
    }
    const found = [];
    const lines = (this.rest + text).split(/\r\n|\n|\r(?!$)/);
    this.rest = lines.pop(); // a \r at the end may be the first half of \r\n
    for (const line of lines) {
      if (line === "") {
        if (this.event.data.length > 0) {
          found.push({ ...this.event, data: this.event.data.join("\n") });
        }
        this.event = { ...blankEvent(), id: this.event.id };
      } else {
        this.take(line);
      }
    }
    return found;
  }

  take(line) {
    const colon = line.indexOf(":");
    if (colon === 0) return;
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") this.event.data.push(value);
    else if (name === "event" || name === "id") this.event[name] = value;
  }
}

function blankEvent() {
  return { event: "message", id: "", data: [] };
}
