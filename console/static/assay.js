// What the pages do beyond links and forms. Without it they can be read all the same.
"use strict";
(() => {
  const copies = (root) => {
    for (const b of root.querySelectorAll("button.copy")) b.hidden = !navigator.clipboard;
  };
  document.addEventListener("click", async (e) => {
    const b = e.target.closest("button.copy");
    if (!b) return;
    await navigator.clipboard.writeText(b.dataset.copy);
    b.textContent = "copied";
    setTimeout(() => (b.textContent = "copy"), 1500);
  });
  document.addEventListener("submit", (e) => {
    const q = e.submitter && e.submitter.dataset.confirm;
    if (q && !window.confirm(q)) { e.preventDefault(); e.stopImmediatePropagation(); }
  }, true);
  // Blank fields stay out of the address, so that it can be shared.
  document.addEventListener("htmx:configRequest", (e) => {
    if (e.detail.verb !== "get" || !e.target.matches("form.filters")) return;
    const p = e.detail.formData || e.detail.parameters;
    for (const f of e.target.elements) if (f.name && f.type !== "checkbox" && f.value === "" && f.name !== "result" && p.delete) p.delete(f.name);
  });
  // "/" goes to the first filter, as in other consoles.
  document.addEventListener("keydown", (e) => {
    if (e.key !== "/" || e.ctrlKey || e.metaKey || e.altKey || e.target.closest("input, textarea, select")) return;
    const f = document.querySelector("form.filters input:not([type=hidden])");
    if (f) { e.preventDefault(); f.focus(); }
  });

  // A page that follows something is read again after it changed, unless somebody is at work on it.
  let stream, waiting, changed = false;
  const main = () => document.getElementById("main");
  const busy = () => document.hidden || main().querySelector("input[type=checkbox][name=id]:checked") ||
    (document.activeElement && document.activeElement.closest("#main form")) || String(window.getSelection());
  const refresh = () => {
    waiting = undefined;
    if (!changed) return;
    if (busy()) { waiting = setTimeout(refresh, 2000); return; }
    changed = false;
    htmx.ajax("GET", location.pathname + location.search, { target: "#main", select: "#main", swap: "outerHTML" });
  };
  const follow = () => {
    const kinds = (main().dataset.live || "").split(" ").filter(Boolean);
    if (stream) stream.close();
    stream = undefined;
    for (const s of document.querySelectorAll(".live")) s.hidden = true;
    if (kinds.length === 0 || document.hidden) return;
    stream = new EventSource("/api/v1/stream");
    stream.onopen = () => { for (const s of document.querySelectorAll(".live")) s.hidden = false; };
    stream.onerror = () => { for (const s of document.querySelectorAll(".live")) s.hidden = true; };
    for (const k of [...kinds, "reset"]) stream.addEventListener(k, () => {
      changed = true;
      if (waiting === undefined) waiting = setTimeout(refresh, 1000);
    });
  };
  document.addEventListener("visibilitychange", follow);
  document.addEventListener("htmx:afterSettle", () => {
    document.title = main().dataset.title;
    copies(document);
    follow();
  });
  const begin = () => { copies(document); follow(); };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin); else begin();
})();
