// Keeps the page of an operation up to date, until it has ended. Without scripts the page has a link for it.
"use strict";
const watch = document.getElementById("watch");
let wait = 1000;

async function look() {
  try {
    const answer = await fetch(watch.dataset.state, { credentials: "same-origin", cache: "no-store" });
    if (answer.redirected) return location.reload(); // signed out meanwhile
    if (answer.ok) {
      const found = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("state");
      const shown = document.getElementById("state");
      if (found && found.outerHTML !== shown.outerHTML) shown.replaceWith(document.adoptNode(found));
      wait = 1000;
    } else wait = Math.min(wait * 2, 15000);
  } catch {
    wait = Math.min(wait * 2, 15000); // the server is away: it may come back
  }
  if (document.querySelector("#state[data-running]")) setTimeout(look, wait);
  else document.getElementById("cancel")?.remove();
}

if (document.querySelector("#state[data-running]")) setTimeout(look, wait);
