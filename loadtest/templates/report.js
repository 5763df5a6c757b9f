"use strict";
const { seconds, words } = JSON.parse(document.getElementById("limits").textContent);
const slider = document.getElementById("objective");

// Each card has its options from most steps to fewest; the last one always applies.
function show() {
  const limit = seconds[slider.value];
  for (const place of document.querySelectorAll("[data-limit]")) {
    place.textContent = words[slider.value];
  }
  slider.setAttribute("aria-valuetext", words[slider.value]);
  for (const card of document.querySelectorAll(".card")) {
    const options = [...card.querySelectorAll("[data-from]")];
    const held = options.find((option) => Number(option.dataset.from) <= limit);
    for (const option of options) option.hidden = option !== held;
  }
}

slider.addEventListener("input", show);
document.getElementById("limit").hidden = false;
show();
