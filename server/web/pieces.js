// Texts of cells: tokens that are only parts of a character are shown as one cell. Pure.

const PART = ""; // text of a cell whose character is shown by another, or is not complete

/**
 * Texts to show for positions, from the text of each token and `parts`, the bytes of those that are
 * only parts of characters (null for others). `joined` is 1 where an earlier cell has the character,
 * 2 where it is not complete.
 */
export function cellTexts(texts, parts) {
  const joined = new Uint8Array(texts.length);
  if (!parts.some((one) => one !== null)) return { texts, joined };
  const shown = [...texts];
  for (let at = 0; at < texts.length; at += 1) {
    if (parts[at] === null) continue;
    const first = at;
    while (at + 1 < texts.length && parts[at + 1] !== null) at += 1;
    join(shown, joined, parts, first, at);
  }
  return { texts: shown, joined };
}

/** Decode the bytes of positions `first` to `last` and give each character to one of them. */
function join(shown, joined, parts, first, last) {
  const bytes = [];
  const owners = [];
  for (let at = first; at <= last; at += 1) {
    shown[at] = PART;
    joined[at] = 2;
    for (const byte of parts[at]) {
      bytes.push(byte);
      owners.push(at);
    }
  }
  for (let i = 0; i < bytes.length; ) {
    const size = sizeOf(bytes[i]);
    const sign = size ? decoded(bytes.slice(i, i + size), size) : null;
    if (sign === null) {
      i += 1;
      continue;
    }
    for (let j = i + size - 1; j >= i; j -= 1) {
      if (shown[owners[j]] === PART) joined[owners[j]] = 1;
    }
    shown[owners[i]] += sign;
    joined[owners[i]] = 0;
    i += size;
  }
}

/** Bytes of the character that a byte begins; 0 if it begins none. */
function sizeOf(byte) {
  if (byte < 0x80) return 1;
  if (byte >= 0xc2 && byte < 0xe0) return 2;
  if (byte >= 0xe0 && byte < 0xf0) return 3;
  return byte >= 0xf0 && byte < 0xf5 ? 4 : 0;
}

function decoded(bytes, size) {
  if (bytes.length < size) return null;
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(bytes));
  } catch {
    return null;
  }
}
