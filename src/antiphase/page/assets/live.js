// In a page that is served: ask for news, and load the page again when there are some.
(() => {
  let known = null;
  const say = (text) => { const place = document.getElementById("status"); if (place) { place.textContent = text; } };
  async function ask() {
    try {
      const answer = await fetch("version", { cache: "no-store" });
      const version = answer.ok ? await answer.text() : known;
      if (known !== null && version !== known) { location.reload(); return; }
      known = version;
    } catch { say("The server has stopped; this page is its last state."); }
    setTimeout(ask, 2000);
  }
  ask();
})();
