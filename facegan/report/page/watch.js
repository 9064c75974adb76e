"use strict";
// The page of a run in training is written again and again: it reloads itself unless its reader is using it.
(() => {
  let used = 0;
  for (const kind of ["pointerdown", "keydown", "wheel"]) addEventListener(kind, () => { used = Date.now(); }, { passive: true });
  setInterval(() => { if (!document.hidden && Date.now() - used > 30_000) location.reload(); }, 10_000);
})();
