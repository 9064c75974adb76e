"use strict";
// What charts share: elements, the page's colours, numbers, axes, and a plot that follows its box and the colours.
const plots = (() => {
  const make = (name, parent, values = {}) => {
    const made = Object.assign(document.createElement(name), values);
    parent.append(made);
    return made;
  };
  const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const number = (value) => value == null ? "–" : Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(+value.toPrecision(4));
  const short = (value) => Math.abs(value) >= 1e4 ? compact.format(value) : String(+value.toPrecision(6));
  const axis = { stroke: () => colour("--soft"), font: "12px system-ui, sans-serif", grid: { stroke: () => colour("--line"), width: 1 }, ticks: { show: false } };
  const draw = (paper, height, options, data) => {
    const plot = new uPlot({ width: Math.max(paper.clientWidth, 200), height, legend: { show: false }, ...options }, data, paper);
    new ResizeObserver(() => {
      const width = Math.floor(paper.clientWidth);
      if (width && width !== plot.width) plot.setSize({ width, height });
    }).observe(paper);
    document.addEventListener("colours", () => plot.redraw(false));
    return plot;
  };
  return { make, compact, colour, number, short, axis, draw };
})();
