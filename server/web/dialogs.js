// The dialog that asks for an API key.

import { keyProblem } from "./api.js";

/** Resolves to a key, or to null; `wrong` says that the server refused another. */
export function askKey(wrong) {
  const dialog = document.querySelector("#key");
  const field = dialog.querySelector("input");
  const said = dialog.querySelector("p");
  const asked = wrong
    ? "The server does not know that key. Another one?"
    : "This server asks for an API key. It stays in this tab, and is forgotten with it.";
  const check = () => {
    const problem = keyProblem(field.value.trim());
    field.setCustomValidity(problem);
    said.textContent = problem || asked;
  };
  field.value = "";
  field.oninput = check;
  check();
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "ok" ? field.value.trim() : null), { once: true });
  });
}
