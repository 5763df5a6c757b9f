// JSON whose seeds keep all their digits: JavaScript's numbers have 53 bits, seeds have 64. Pure.

const LONG = /(?<=[{,]\s*)"seed"\s*:\s*(-?\d{16,})(?=\s*[,}])/g;
const WRITTEN = /(?<=[{,])"seed":"(-?\d+)"(?=[,}])/g;

/** As JSON.parse; a seed of 16 or more digits becomes a string of digits. */
export function parsed(text) {
  return JSON.parse(text.replace(LONG, '"seed":"$1"'));
}

/** As JSON.stringify; a seed that is a string of digits is written as a number. */
export function written(value) {
  return JSON.stringify(value).replace(WRITTEN, '"seed":$1');
}

/** The integer in a field as digits; the empty string if there is none. */
export function digits(text) {
  const given = text.trim();
  if (/^-?\d+$/.test(given) || given === "") return given;
  return Number.isFinite(Number(given)) ? String(Math.trunc(Number(given))) : "";
}
