"use strict";
const decoded = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
const unpacked = (bytes) => new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
(() => {
  // Colours follow the system unless the reader chooses. Some browsers store nothing for files.
  const root = document.documentElement;
  const switches = document.getElementById("theme");
  const kept = (() => { try { return localStorage.getItem("facegan-theme"); } catch { return null; } })();
  const show = (theme) => {
    if (theme === "light" || theme === "dark") root.dataset.theme = theme; else delete root.dataset.theme;
    document.dispatchEvent(new Event("colours"));
  };
  switches.hidden = false;
  switches.addEventListener("change", (event) => {
    show(event.target.value);
    try { localStorage.setItem("facegan-theme", event.target.value); } catch { /* it holds for this visit */ }
  });
  if (kept === "light" || kept === "dark") {
    switches.querySelector(`[value=${kept}]`).checked = true;
    show(kept);
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => document.dispatchEvent(new Event("colours")));

  for (const button of document.querySelectorAll("[data-copies]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const what = document.getElementById(button.dataset.copies);
      const status = document.getElementById("copied");
      try {
        await navigator.clipboard.writeText(what.textContent);
        status.textContent = "Copied.";
      } catch {
        getSelection().selectAllChildren(what);
        status.textContent = "Selected: copy it with Ctrl+C.";
      }
    });
  }
})();
