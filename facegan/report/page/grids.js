"use strict";
(() => {
  const element = document.getElementById("frames");
  if (!element) return;
  const frames = JSON.parse(element.textContent);
  const picture = document.getElementById("frame"), slider = document.getElementById("frame-number");
  const output = document.getElementById("frame-images"), play = document.getElementById("play");
  let timer = 0;

  const show = () => {
    const { images, src } = frames[slider.valueAsNumber];
    const words = `${images.toLocaleString("en")} images`;
    picture.src = src;
    picture.alt = `Samples after ${words}`;
    output.textContent = words;
    slider.setAttribute("aria-valuetext", words);
  };
  const stop = () => {
    clearInterval(timer);
    timer = 0;
    play.textContent = "Play";
    play.setAttribute("aria-pressed", "false");
  };
  const step = () => {
    slider.value = slider.valueAsNumber + 1;
    show();
    if (slider.valueAsNumber === frames.length - 1) stop();
  };
  slider.addEventListener("input", () => { stop(); show(); });
  play.addEventListener("click", () => {
    if (timer) return stop();
    if (slider.valueAsNumber === frames.length - 1) { slider.value = 0; show(); }
    play.textContent = "Stop";
    play.setAttribute("aria-pressed", "true");
    timer = setInterval(step, 250);
  });
  document.getElementById("frame-controls").hidden = frames.length < 2;
  slider.setAttribute("aria-valuetext", output.textContent);
})();
