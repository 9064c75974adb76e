"use strict";
(async () => {
  const element = document.getElementById("faces");
  if (!element) return;
  const data = JSON.parse(element.textContent), { thresholds, choice } = data, count = thresholds.length;
  const at = thresholds.map((threshold) => threshold.start); // the step at which each slider is

  // The faces: photograph after photograph, in the order in which prep prefers them.
  const raw = await unpacked(decoded(data.packed));
  const faces = new Uint16Array(raw, 0, data.photos), flags = new Uint8Array(raw, 2 * data.photos, data.faces);
  const steps = thresholds.map((_, t) => new Uint8Array(raw, 2 * data.photos + (1 + t) * data.faces, data.faces));
  const near = new Set(data.near.map(([face]) => face));
  const BAD_KEYPOINTS = 1, FAINT = 2, BEST = 4, NOBODY = 8;

  // As facegan.prep.cut.PhotoFaces decides: change both. The first threshold is that of the score.
  const isMinimum = thresholds.map((threshold) => threshold.is_minimum);
  const passes = (t, face) => isMinimum[t] ? steps[t][face] > at[t] : steps[t][face] <= at[t];
  const verdict = (face) => {
    if (flags[face] & BAD_KEYPOINTS) return "bad_keypoints";
    for (let t = 1; t < count; t++) if (!passes(t, face)) return thresholds[t].reason;
    return "";
  };
  const decide = (examine) => {
    const low = thresholds[0].steps[at[0]] < 0.5, found = { "": 0, no_face: data.without, ...data.fixed };
    const add = (reason) => { found[reason] = (found[reason] ?? 0) + 1; };
    const waiting = new Set(); // kept unless they are near-duplicates
    let samples = 0;
    for (let photo = 0, face = 0; photo < data.photos; photo++) {
      const first = face, end = face + faces[photo];
      let sure = false, chosen = 0, best = first, outcome = null;
      for (let f = first; f < end; f++) {
        if (flags[f] & BEST) best = f;
        if (!(flags[f] & FAINT) && passes(0, f)) sure = true;
      }
      const faint = low && (choice !== "best" || !sure);
      for (; face < end; face++) {
        if (!passes(0, face) || (flags[face] & FAINT && !faint)) continue;
        if (chosen++ && choice !== "all") continue;
        const reason = verdict(face);
        best = face;
        if (choice === "all") examine(face, reason);
        if (!reason) samples++;
        outcome = reason && outcome !== null ? outcome : reason;
      }
      if (choice === "only" && chosen > 1) outcome = "several_faces";
      if (!chosen) outcome = flags[best] & NOBODY ? "no_face" : verdict(best) || "low_score";
      if (!outcome && near.has(best)) { waiting.add(best); continue; }
      if (choice !== "all" || !chosen) examine(best, outcome);
      add(outcome);
    }
    const preferred = new Set();
    for (const [face, ...before] of data.near) {
      if (!waiting.has(face)) continue;
      const outcome = before.some((other) => preferred.has(other)) ? "near_duplicate" : "";
      if (!outcome) preferred.add(face);
      examine(face, outcome);
      add(outcome);
    }
    return { found, samples: choice === "all" ? samples : found[""] };
  };

  const { make, colour } = plots, place = document.getElementById("thresholds"), show = (id, text) => { document.getElementById(id).textContent = text; };
  const whole = (value) => value.toLocaleString("en");
  const pictures = data.pictures.map(({ src, text }) => {
    const image = new Image(64, 64);
    Object.assign(image, { src, alt: text, title: text });
    return image;
  });
  const original = decide(() => {}).found;
  let all, kept, now, wanted = 0;

  const updates = thresholds.map((threshold, t) => {
    const size = threshold.steps.length, value = () => threshold.steps[at[t]];
    if (size < 2) return null; // a threshold that has no effect with this crop
    const box = make("div", place, { className: "chart threshold" }), head = make("h3", box);
    const label = make("label", head, { textContent: threshold.title, htmlFor: `threshold-${t}` });
    const output = make("output", head), paper = make("div", box, { className: "plot" });
    const strip = make("div", box, { className: "strip" });
    const sides = [threshold.is_minimum, !threshold.is_minimum].map((rejects) => {
      const side = make("div", strip, { className: rejects ? "rejects" : "keeps" });
      make("small", side, { textContent: rejects ? "rejected" : "kept" });
      return make("div", side);
    });
    const text = make("p", box, { className: "hint picked", textContent: threshold.note });
    const slider = make("input", paper, { type: "range", id: label.htmlFor, min: 0, max: size - 1, step: 1, value: at[t] });
    const low = steps[t].includes(0) ? -1 : 0, high = steps[t].includes(size) ? size : size - 1;
    let most = 1;
    const plot = plots.draw(paper, 150, {
      padding: [14, 14, 0, 0], cursor: { show: false }, select: { show: false },
      scales: { x: { time: false, range: () => [low, high] }, y: { range: () => [0, most] } },
      axes: [
        { ...plots.axis, size: 24, splits: () => threshold.ticks.map((tick) => tick[0]), values: () => threshold.ticks.map((tick) => plots.short(tick[1])) },
        { ...plots.axis, size: 48, gap: 10, space: 40, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4], values: (_, ticks) => ticks.map(plots.short) },
      ],
      series: [{}, ...["--c1", "--c0"].map((name) => ({
        stroke: "transparent", width: 0, fill: () => colour(name), points: { show: false }, paths: uPlot.paths.bars({ size: [0.84, 60] }),
      }))],
      hooks: {
        draw: [(u) => { // a bar that is cut off has its number
          const top = u.data[1].indexOf(Math.max(...u.data[1]));
          u.ctx.save();
          Object.assign(u.ctx, { fillStyle: colour("--soft"), textAlign: "left", font: `${11 * devicePixelRatio}px system-ui, sans-serif` });
          if (u.data[1][top] > most) u.ctx.fillText(`↑ ${plots.compact.format(u.data[1][top])}`, u.valToPos(top - 0.5, "x", true), u.bbox.top - 4 * devicePixelRatio);
          u.ctx.restore();
          const half = 14, left = u.valToPos(0, "x");
          slider.style.cssText = `left: ${u.over.offsetLeft + left - half}px; width: ${u.valToPos(size - 1, "x") - left + 2 * half}px; top: ${u.over.offsetTop}px; height: ${u.over.offsetHeight}px`;
        }],
      },
    }, [[0], [0], [0]]);
    plot.over.addEventListener("click", (event) => {
      slider.value = Math.round(plot.posToVal(event.offsetX, "x"));
      slider.dispatchEvent(new Event("input"));
    });
    slider.addEventListener("input", () => { at[t] = slider.valueAsNumber; recount(); });
    strip.addEventListener("click", (event) => { if (event.target.alt) text.textContent = event.target.alt; });

    // The nearest faces on both sides that no other threshold rejects.
    const isElse = (face) => flags[face] & BAD_KEYPOINTS || thresholds.some((_, other) => other !== t && !passes(other, face));
    return () => {
      output.textContent = `${threshold.option} ${value()}`;
      slider.value = at[t];
      slider.setAttribute("aria-valuetext", `${value()}: ${whole(now.found[""])} kept`);
      const bars = all[t], ordered = Array.from(bars).sort((a, b) => b - a);
      most = Math.max(Math.min(ordered[0], 1.6 * (ordered[2] || ordered[0])), 1) * 1.05;
      plot.setData([Array.from(bars, (_, i) => i - 0.5), Array.from(bars), Array.from(kept[t])]);
      const fair = data.pools[t].filter(([face]) => !isElse(face));
      const below = fair.filter(([face]) => passes(t, face) !== isMinimum[t]).reverse();
      const above = fair.filter(([face]) => passes(t, face) === isMinimum[t]);
      [below, above].forEach((some, i) => sides[i].replaceChildren(...some.slice(0, 8).map(([, picture]) => pictures[picture].cloneNode())));
    };
  });

  const draw = () => { wanted = 0; updates.forEach((update) => update?.()); };
  const recount = () => {
    all = thresholds.map(({ steps }) => new Uint32Array(steps.length + 1));
    kept = all.map((bars) => new Uint32Array(bars.length));
    now = decide((face, reason) => {
      for (let t = 0; t < count; t++) {
        all[t][steps[t][face]]++;
        if (!reason) kept[t][steps[t][face]]++;
      }
    });
    const change = now.found[""] - original[""], total = Object.values(now.found).reduce((sum, some) => sum + some, 0);
    show("kept", whole(now.found[""]));
    show("share", `of ${whole(total)} kept, ${(100 * now.found[""] / total).toFixed(1)}\u00a0%${choice === "all" ? `, ${whole(now.samples)} faces` : ""}`);
    show("change", change ? `${change > 0 ? "+" : "−"}${whole(Math.abs(change))}` : "");
    document.getElementById("share-bar").style.width = `${100 * now.found[""] / total}%`;
    for (const row of document.querySelectorAll("[data-reason]")) {
      const { reason } = row.dataset, [before, after] = [original[reason] ?? 0, now.found[reason] ?? 0];
      row.hidden = !before && !after;
      row.lastElementChild.textContent = whole(after);
      row.lastElementChild.className = before === after ? "n" : "n changed";
    }
    const moved = thresholds.map(({ option, steps, usual }, t) => steps[at[t]] === usual ? "" : ` ${option} ${steps[at[t]]}`);
    show("command", `${data.command.head}${moved.join("")} ${data.command.tail}`);
    document.getElementById("reset").disabled = thresholds.every(({ start }, t) => at[t] === start);
    wanted ||= requestAnimationFrame(draw);
  };
  document.getElementById("reset").addEventListener("click", () => {
    thresholds.forEach(({ start }, t) => { at[t] = start; });
    recount();
  });
  document.getElementById("tally").hidden = false;
  recount();
  draw();
  place.dataset.ready = "";
})();
