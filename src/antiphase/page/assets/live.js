// Only in a served page: ask the server for its version, and reload the page when that has changed.
(() => {
  // The version of the files that this page was made of.
  const known = document.documentElement.dataset.version;
  const say = (text) => { const place = document.getElementById("status"); if (place) { place.textContent = text; } };
  async function ask() {
    try {
      const answer = await fetch("version", { cache: "no-store" });
      const version = answer.ok ? await answer.text() : known;
      if (version !== known) { location.reload(); return; }
      say("");
    } catch { say("The server has stopped; this page is its last state."); }
    setTimeout(ask, 2000);
  }
  ask();
})();
