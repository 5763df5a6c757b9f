// Entry point of an exported file: plays the trajectories that it contains.

import { Pane } from "./pane.js";
import { Player } from "./player.js";
import { Run } from "./reducer.js";

const kept = JSON.parse(document.getElementById("trajectories").textContent);
const offline = new Player();
document.querySelector("main").append(offline.node);
document.querySelector(".prompt").textContent = kept.prompt;
offline.load(
  kept.runs.map(({ title, events, score }) => {
    const onseek = (pane, frame) => offline.seekFrame(pane, frame);
    const pane = new Pane(Run.from(events), title, { onseek });
    if (score) pane.fact("likelihood", score);
    return pane;
  }),
);
document.addEventListener("keydown", (event) => offline.key(event));
document.getElementById("theme").addEventListener("click", () => {
  const dark = document.documentElement.dataset.theme ?? (offline.dark.matches ? "dark" : "light");
  document.documentElement.dataset.theme = dark === "dark" ? "light" : "dark";
  offline.restyle();
});
if (location.hash === "#embed") document.documentElement.dataset.embed = "";
offline.play();
