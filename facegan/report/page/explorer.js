"use strict";
(() => {
  const data = JSON.parse(document.getElementById("explorer-data").textContent);
  const status = document.getElementById("explorer-status"), big = document.getElementById("face");
  const sliders = [...document.querySelectorAll("[data-direction]")], faces = [...document.querySelectorAll("[data-face]")];
  const between = document.getElementById("between"), walk = document.getElementById("walk");
  const attributes = [...document.querySelectorAll("[data-attribute]")], classes = document.getElementById("class");
  const ends = [null, null];
  let base = data.faces[0], session, busy = false, wanted = false, stale = true, walking = 0;

  // Back into the latents' distribution, which a step may leave.
  const project = (latent) => {
    if (data.distribution === "uniform") return latent.map((v) => Math.max(-1, Math.min(1, v)));
    if (data.distribution === "uniform01") return latent.map((v) => Math.max(0, Math.min(1, v)));
    if (data.distribution !== "sphere") return latent;
    const length = Math.hypot(...latent) || 1;
    return latent.map((v) => (v / length) * Math.sqrt(data.latent));
  };
  const random = () => {
    const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
    const draw = { uniform: () => Math.random() * 2 - 1, uniform01: Math.random }[data.distribution] ?? normal;
    return project(Array.from({ length: data.latent }, draw));
  };
  // Spherical for normal latents (White 2016, arXiv:1609.04468): points in between keep the length of latents.
  const interpolate = (a, b, t) => {
    const straight = a.map((v, i) => v * (1 - t) + b[i] * t);
    if (data.distribution.startsWith("uniform")) return straight;
    const dot = a.reduce((sum, v, i) => sum + v * b[i], 0) / (Math.hypot(...a) * Math.hypot(...b) || 1);
    const angle = Math.acos(Math.max(-1, Math.min(1, dot))), sine = Math.sin(angle);
    if (sine < 1e-6) return straight;
    return a.map((v, i) => (v * Math.sin((1 - t) * angle) + b[i] * Math.sin(t * angle)) / sine);
  };
  const latent = () => project(sliders.reduce(
    (z, slider, k) => slider.valueAsNumber ? z.map((v, i) => v + slider.valueAsNumber * data.directions[k].step[i]) : z, base));

  const condition = () => classes
    ? Array.from({ length: data.condition.classes }, (_, i) => i === +classes.value ? 1 : 0)
    : attributes.map((box) => box.checked ? 1 : -1);
  const tensor = (rows) => new ort.Tensor("float32", Float32Array.from(rows.flat()), [rows.length, rows[0].length]);
  const images = async (latents) => {
    const inputs = { latents: tensor(latents) };
    if (data.condition) inputs.condition = tensor(latents.map(condition));
    const { images } = await session.run(inputs);
    return images.data;
  };
  const paint = (canvas, values, at) => {
    const pixels = data.size * data.size, image = new ImageData(data.size, data.size);
    for (let i = 0; i < pixels; i++) {
      for (let c = 0; c < 3; c++) {
        image.data[4 * i + c] = Math.round((values[(at * data.channels + (data.channels === 3 ? c : 0)) * pixels + i] + 1) * 127.5);
      }
      image.data[4 * i + 3] = 255;
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
  };
  // Only the newest request is drawn: a moving slider makes more of them than there are frames.
  const draw = async () => {
    wanted = true;
    if (busy || !session) return;
    busy = true;
    while (wanted) {
      wanted = false;
      big.removeAttribute("data-drawn");
      const now = latent(), code = data.condition && condition();
      paint(big, await images([now]), 0);
      if (stale) {
        stale = false;
        const all = await images(data.faces);
        faces.forEach((button, i) => paint(button.firstElementChild, all, i));
      }
      if (code) big.dataset.condition = JSON.stringify(code);
      big.dataset.drawn = JSON.stringify(now);
      await new Promise(requestAnimationFrame);
    }
    busy = false;
  };

  const show = () => {
    sliders.forEach((slider) => { slider.nextElementSibling.textContent = +slider.valueAsNumber.toFixed(2); });
    draw();
  };
  const rest = () => { cancelAnimationFrame(walking); walking = 0; walk.textContent = "Walk"; walk.setAttribute("aria-pressed", "false"); };
  const reset = () => { sliders.forEach((slider) => { slider.value = 0; }); show(); };
  const go = (t) => { between.value = t; base = interpolate(data.faces[ends[0]], data.faces[ends[1]], between.valueAsNumber); draw(); };
  sliders.forEach((slider) => slider.addEventListener("input", show));
  [...attributes, ...(classes ? [classes] : [])].forEach((input) => input.addEventListener("input", () => { stale = true; draw(); }));
  document.getElementById("reset").addEventListener("click", reset);
  document.getElementById("dice").addEventListener("click", () => { rest(); base = random(); reset(); });
  between.addEventListener("input", () => { rest(); go(between.valueAsNumber); });

  let next = 0;
  document.getElementById("faces").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    rest();
    const face = +button.dataset.face;
    ends[next] = face;
    base = data.faces[face];
    const whole = ends[0] !== null && ends[1] !== null;
    between.disabled = walk.disabled = !whole;
    between.value = next;
    next = 1 - next;
    faces.forEach((other, i) => {
      const letters = [ends[0] === i ? "A" : "", ends[1] === i ? "B" : ""].join("");
      if (letters) other.dataset.end = letters; else delete other.dataset.end;
      other.setAttribute("aria-label", `Face ${i + 1}${letters ? `, ${letters}` : ""}`);
    });
    reset();
  });
  walk.addEventListener("click", () => {
    if (walking) return rest();
    walk.textContent = "Stop";
    walk.setAttribute("aria-pressed", "true");
    const start = performance.now() - Math.acos(1 - 2 * between.valueAsNumber) / Math.PI * 3000;
    const step = (now) => {
      go((1 - Math.cos(Math.PI * (now - start) / 3000)) / 2);
      walking = requestAnimationFrame(step);
    };
    walking = requestAnimationFrame(step);
  });

  const script = (name) => new Promise((done, failed) => {
    const tag = document.createElement("script");
    tag.src = `explorer/${name}.js`;
    tag.onload = done;
    tag.onerror = () => failed(new Error(`explorer/${name}.js cannot be read: it must be beside this page.`));
    document.head.append(tag);
  });
  const bytes = (name) => {
    const found = decoded(self.facegan[name]);
    delete self.facegan[name];
    return found;
  };

  const load = async () => {
    for (const name of ["runtime", "module", "program", "generator"]) await script(name);
    const module = new Blob([await unpacked(bytes("module"))], { type: "text/javascript" });
    ort.env.wasm.numThreads = 1; // more need shared memory, which pages from disk lack
    ort.env.wasm.proxy = false;
    ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(module) };
    ort.env.wasm.wasmBinary = await unpacked(bytes("program"));
    session = await ort.InferenceSession.create(bytes("generator"), { executionProviders: ["wasm"] });
    document.getElementById("explorer-body").hidden = false;
    status.textContent = "The generator of this run draws every face in your browser.";
    await draw();
    document.getElementById("explorer").dataset.ready = "";
  };
  const start = () => load().catch((error) => { status.textContent = `The generator could not be loaded: ${error.message}`; });
  if (document.readyState === "complete") start(); else addEventListener("load", start);
})();
