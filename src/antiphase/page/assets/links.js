// Make cells of tables into links that open a rollout in the token microscope.
import { $ } from "./core.js";
import { SUBJECTS } from "./data.js";
import { showRollout } from "./microscope.js";

/** The first of these rollouts that the page holds, as {subject, rollout}; null if it holds none of them. */
function firstHeld(pairs) {
  for (const [label, id] of pairs) {
    const subject = SUBJECTS.find((one) => one.label === label), rollout = subject?.rollouts.findIndex((one) => one.id === id) ?? -1;
    if (rollout >= 0) return { subject, rollout };
  }
  return null;
}

export function wireLinks() {
  for (const link of document.querySelectorAll("a.opens")) {
    const found = $("tokens") ? firstHeld(JSON.parse(link.dataset.rollouts)) : null;
    if (!found) { link.replaceWith(...link.childNodes); continue; }
    link.href = `#subject=${found.subject.place}&rollout=${found.rollout}`;
    link.title = `Open a rollout of ${found.subject.label}`;
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return; // a new window reads the address
      event.preventDefault();
      showRollout(found.subject, found.rollout);
    });
  }
}
