"use strict";
(() => {
  const told = JSON.parse(document.getElementById("explorer-told").textContent);
  const said = document.getElementById("explorer-said"), big = document.getElementById("face");
  const sliders = [...document.querySelectorAll("[data-direction]")], faces = [...document.querySelectorAll("[data-face]")];
  const between = document.getElementById("between"), walk = document.getElementById("walk");
  const ends = [null, null];
  let base = told.faces[0], session, busy = false, wanted = false, walking = 0;

  // What the law of the latents allows: a step may lead out of it.
  const lawful = (latent) => {
    if (told.law === "uniform") return latent.map((v) => Math.max(-1, Math.min(1, v)));
    if (told.law === "uniform01") return latent.map((v) => Math.max(0, Math.min(1, v)));
    if (told.law !== "sphere") return latent;
    const length = Math.hypot(...latent) || 1;
    return latent.map((v) => (v / length) * Math.sqrt(told.latent));
  };
  const drawn = () => {
    const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
    const draw = { uniform: () => Math.random() * 2 - 1, uniform01: Math.random }[told.law] ?? normal;
    return lawful(Array.from({ length: told.latent }, draw));
  };
  // Spherical for normal latents (White 2016, arXiv:1609.04468): halfway points keep the length that latents have.
  const mixed = (a, b, t) => {
    const straight = a.map((v, i) => v * (1 - t) + b[i] * t);
    if (told.law.startsWith("uniform")) return straight;
    const dot = a.reduce((sum, v, i) => sum + v * b[i], 0) / (Math.hypot(...a) * Math.hypot(...b) || 1);
    const angle = Math.acos(Math.max(-1, Math.min(1, dot))), sine = Math.sin(angle);
    if (sine < 1e-6) return straight;
    return a.map((v, i) => (v * Math.sin((1 - t) * angle) + b[i] * Math.sin(t * angle)) / sine);
  };
  const latent = () => lawful(sliders.reduce(
    (z, slider, k) => slider.valueAsNumber ? z.map((v, i) => v + slider.valueAsNumber * told.directions[k].step[i]) : z, base));

  const images = async (latents) => {
    const given = new ort.Tensor("float32", Float32Array.from(latents.flat()), [latents.length, told.latent]);
    const { images } = await session.run({ latents: given });
    return images.data;
  };
  const paint = (canvas, values, at) => {
    const pixels = told.size * told.size, image = new ImageData(told.size, told.size);
    for (let i = 0; i < pixels; i++) {
      for (let c = 0; c < 3; c++) {
        image.data[4 * i + c] = Math.round((values[(at * told.channels + (told.channels === 3 ? c : 0)) * pixels + i] + 1) * 127.5);
      }
      image.data[4 * i + 3] = 255;
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
  };
  // The newest wish alone is drawn: a slider that is pulled makes more of them than there are frames.
  const draw = async () => {
    wanted = true;
    if (busy || !session) return;
    busy = true;
    while (wanted) {
      wanted = false;
      big.removeAttribute("data-drawn");
      const now = latent();
      paint(big, await images([now]), 0);
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
  const go = (t) => { between.value = t; base = mixed(told.faces[ends[0]], told.faces[ends[1]], between.valueAsNumber); draw(); };
  sliders.forEach((slider) => slider.addEventListener("input", show));
  document.getElementById("reset").addEventListener("click", reset);
  document.getElementById("dice").addEventListener("click", () => { rest(); base = drawn(); reset(); });
  between.addEventListener("input", () => { rest(); go(between.valueAsNumber); });

  let next = 0;
  document.getElementById("faces").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    rest();
    const face = +button.dataset.face;
    ends[next] = face;
    base = told.faces[face];
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
    tag.onerror = () => failed(new Error(`explorer/${name}.js can’t be read: it has to lie beside this page.`));
    document.head.append(tag);
  });
  const bytes = (name) => {
    const data = Uint8Array.from(atob(self.facegan[name]), (letter) => letter.charCodeAt(0));
    delete self.facegan[name];
    return data;
  };
  const unpacked = async (name) => new Response(new Blob([bytes(name)]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();

  const wake = async () => {
    for (const name of ["runtime", "module", "program", "generator"]) await script(name);
    const module = new Blob([await unpacked("module")], { type: "text/javascript" });
    ort.env.wasm.numThreads = 1; // more need shared memory, which files have not
    ort.env.wasm.proxy = false;
    ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(module) };
    ort.env.wasm.wasmBinary = await unpacked("program");
    session = await ort.InferenceSession.create(bytes("generator"), { executionProviders: ["wasm"] });
    document.getElementById("explorer-body").hidden = false;
    said.textContent = "Every face is drawn now, on this machine, by the generator that this run trained.";
    await draw();
    const all = await images(told.faces);
    faces.forEach((button, i) => paint(button.firstElementChild, all, i));
    document.getElementById("explorer").dataset.awake = "";
  };
  const start = () => wake().catch((error) => { said.textContent = `The generator can’t be woken: ${error.message}`; });
  if (document.readyState === "complete") start(); else addEventListener("load", start);
})();
