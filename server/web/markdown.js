// A little Markdown as elements: paragraphs, headings, lists, code, bold, italics. Text stays text.

import { h } from "./dom.js";

const INLINE = /(`[^`\n]+`|\*\*[^*\n]+\*\*|\*[^*\s][^*\n]*\*)/;

/** The elements of a text. Links and markup of HTML are shown as they are written. */
export function blocks(text) {
  const found = [];
  const lines = text.replaceAll("\r\n", "\n").split("\n");
  for (let at = 0; at < lines.length; ) {
    const line = lines[at];
    if (/^```/.test(line)) {
      const end = lines.findIndex((one, i) => i > at && /^```/.test(one));
      const last = end < 0 ? lines.length : end;
      found.push(h("pre", {}, h("code", {}, lines.slice(at + 1, last).join("\n"))));
      at = last + 1;
    } else if (/^\s*([-*+]|\d+[.)])\s+/.test(line)) {
      const tag = /^\s*\d/.test(line) ? "ol" : "ul";
      const items = [];
      for (; at < lines.length && /^\s*([-*+]|\d+[.)])\s+/.test(lines[at]); at += 1) items.push(lines[at].replace(/^\s*([-*+]|\d+[.)])\s+/, ""));
      found.push(h(tag, { class: "marked" }, ...items.map((item) => h("li", {}, ...inline(item)))));
    } else if (/^#{1,6}\s/.test(line)) {
      found.push(h("p", { class: "heading" }, ...inline(line.replace(/^#+\s+/, ""))));
      at += 1;
    } else if (line.trim() === "") {
      at += 1;
    } else {
      const paragraph = [];
      for (; at < lines.length && lines[at].trim() !== "" && !/^(```|#{1,6}\s|\s*([-*+]|\d+[.)])\s+)/.test(lines[at]); at += 1) paragraph.push(lines[at]);
      found.push(h("p", { dir: "auto" }, ...inline(paragraph.join("\n"))));
    }
  }
  return found;
}

function inline(text) {
  return text.split(INLINE).filter((part) => part !== "").map((part) => {
    if (/^`.+`$/.test(part)) return h("code", {}, part.slice(1, -1));
    if (/^\*\*.+\*\*$/.test(part)) return h("strong", {}, part.slice(2, -2));
    if (/^\*.+\*$/.test(part)) return h("em", {}, part.slice(1, -1));
    return part;
  });
}
