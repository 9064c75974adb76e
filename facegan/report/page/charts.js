"use strict";
(() => {
  const data = JSON.parse(document.getElementById("curves").textContent);
  const place = document.getElementById("charts"), controls = document.getElementById("chart-controls");
  const smoothing = document.getElementById("smoothing"), range = document.getElementById("range");
  const { make, compact, colour, number, axis } = plots;
  const first = Math.min(0, ...data.charts.map((chart) => chart.x[0]));
  const last = Math.max(...data.charts.map((chart) => chart.x[chart.x.length - 1]), first + 1);
  let shown = [first, last];
  const drawn = [];

  const tint = (chart, i) => (chart.colours[i] ?? i) % 8;

  // An exponential mean with bias correction, as in TensorBoard.
  const smooth = (values, weight) => {
    let mean = 0, share = 1;
    return values.map((value) => {
      if (value == null) return null;
      mean = mean * weight + value * (1 - weight);
      share *= weight;
      return mean / (1 - share);
    });
  };
  const dataOf = (chart) => {
    const weight = smoothing.valueAsNumber, raw = Object.values(chart.curves);
    return [chart.x, ...raw.map((values) => weight ? smooth(values, weight) : values), ...raw];
  };

  const show = (low, high) => {
    const width = Math.max(Math.min(high - low, last - first), (last - first) / 5000);
    low = Math.max(first, Math.min(low, last - width));
    shown = [low, low + width];
    for (const { plot } of drawn) plot.setScale("x", { min: shown[0], max: shown[1] });
    const whole = shown[0] === first && shown[1] === last;
    range.textContent = `${whole ? "All: " : ""}${shown.map((x) => Math.round(x).toLocaleString("en")).join(" – ")} images`;
  };

  const drawMarks = (plot, chart) => {
    const pen = plot.ctx, { left, top, width, height } = plot.bbox, dots = devicePixelRatio;
    pen.save();
    pen.textBaseline = "alphabetic";
    pen.font = `600 ${11 * dots}px system-ui, sans-serif`;
    if (chart.real_vs_real != null) {
      const y = plot.valToPos(chart.real_vs_real, "y", true);
      pen.strokeStyle = pen.fillStyle = colour("--healthy");
      pen.setLineDash([2 * dots, 4 * dots]);
      pen.lineWidth = 1.5 * dots;
      pen.beginPath(); pen.moveTo(left, y); pen.lineTo(left + width, y); pen.stroke();
      pen.textAlign = "right";
      pen.fillText("real faces", left + width - 4 * dots, y - 5 * dots);
    }
    if (chart.best != null) {
      const values = Object.values(chart.curves)[0];
      pen.strokeStyle = colour("--ink");
      pen.setLineDash([]);
      pen.lineWidth = 1.5 * dots;
      pen.beginPath();
      pen.arc(plot.valToPos(chart.x[chart.best], "x", true), plot.valToPos(values[chart.best], "y", true), 5 * dots, 0, 7);
      pen.stroke();
    }
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    let before = -Infinity;
    data.marks.forEach((mark, i) => {
      if (mark.images < shown[0] || mark.images > shown[1]) return;
      const x = plot.valToPos(mark.images, "x", true), row = x - before < 16 * dots ? 1 : 0;
      before = row ? -Infinity : x;
      pen.strokeStyle = colour("--warn");
      pen.setLineDash([5 * dots, 4 * dots]);
      pen.lineWidth = 1.25 * dots;
      pen.beginPath(); pen.moveTo(x, top); pen.lineTo(x, top + height); pen.stroke();
      pen.fillStyle = colour("--warn");
      pen.beginPath(); pen.arc(x, top + (8 + 17 * row) * dots, 8 * dots, 0, 7); pen.fill();
      pen.fillStyle = colour("--sheet");
      pen.fillText(i + 1, x, top + (8.5 + 17 * row) * dots);
    });
    pen.restore();
  };

  const legendOf = (chart, labels) => {
    const list = document.createElement("ul");
    list.className = "legend";
    const values = labels.map((label, i) => {
      const button = make("button", make("li", list), { type: "button" });
      button.setAttribute("aria-pressed", "true");
      make("i", button).style.background = `var(--c${tint(chart, i)})`;
      button.append(label);
      button.addEventListener("click", () => {
        const on = button.getAttribute("aria-pressed") !== "true";
        button.setAttribute("aria-pressed", String(on));
        const { plot } = drawn.find((one) => one.chart === chart);
        plot.setSeries(i + 1, { show: on });
        plot.setSeries(i + 1 + labels.length, { show: on && smoothing.valueAsNumber > 0 });
      });
      return make("b", button);
    });
    return { list, values, isOn: (i) => list.children[i].firstChild.getAttribute("aria-pressed") === "true" };
  };

  for (const chart of data.charts) {
    const labels = Object.keys(chart.curves), few = chart.x.length < 40;
    const box = make("div", place, { className: "chart" }), legend = legendOf(chart, labels);
    make("h3", box, { textContent: chart.title });
    if (chart.note) make("p", box, { className: "hint", textContent: chart.note });
    const paper = make("div", box, { className: "plot" });
    paper.setAttribute("role", "img");
    const ends = labels.map((label) => `${label} ${number(chart.curves[label].findLast((value) => value != null))}`);
    paper.setAttribute("aria-label", `${chart.title} over images; in the end: ${ends.join(", ")}`);
    box.append(legend.list);
    const showValues = (at) => legend.values.forEach((value, i) => {
      const curve = drawn.find((one) => one.chart === chart)?.plot.data[i + 1] ?? dataOf(chart)[i + 1];
      value.textContent = number(at == null ? curve.findLast((v) => v != null) : curve[at]);
    });
    const series = (i, faint) => ({
      label: labels[i], stroke: () => colour(`--c${tint(chart, i)}`), width: faint ? 1 : 1.75, alpha: faint ? 0.28 : 1, spanGaps: true,
      points: { show: few && !faint, size: 5, fill: () => colour(`--c${tint(chart, i)}`) }, show: !faint,
    });
    const plot = plots.draw(paper, 230, {
      padding: [12, 22, 0, 0],
      cursor: { sync: { key: "images" }, drag: { x: true, y: false, setScale: false }, points: { size: 6 } },
      scales: {
        x: { time: false, range: () => shown },
        y: { range: (_, low, high) => {
          if (low == null) return [0, 1];
          if (chart.real_vs_real != null) { low = Math.min(low, chart.real_vs_real); high = Math.max(high, chart.real_vs_real); }
          const room = (high - low || Math.abs(high) || 1) * 0.06;
          return [chart.low ?? low - room, chart.high ?? high + room];
        } },
      },
      axes: [{ ...axis, size: 28, values: (_, ticks) => ticks.map((tick) => compact.format(tick)) }, { ...axis, size: 52, values: (_, ticks) => ticks.map(plots.short) }],
      series: [{}, ...labels.map((_, i) => series(i, false)), ...labels.map((_, i) => series(i, true))],
      hooks: {
        draw: [(u) => drawMarks(u, chart)],
        setCursor: [(u) => showValues(u.cursor.idx)],
        setSelect: [(u) => {
          if (u.select.width > 3) show(u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x"));
          u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
        }],
        ready: [(u) => u.over.addEventListener("dblclick", () => show(first, last))],
      },
    }, dataOf(chart));
    drawn.push({ plot, chart, legend, showValues });
    showValues(null);
  }

  const change = () => {
    document.getElementById("smoothing-value").textContent = smoothing.valueAsNumber ? smoothing.value : "none";
    for (const { plot, chart, legend, showValues } of drawn) {
      const count = Object.keys(chart.curves).length;
      plot.setData(dataOf(chart), false);
      for (let i = 0; i < count; i++) plot.setSeries(i + 1 + count, { show: smoothing.valueAsNumber > 0 && legend.isOn(i) });
      plot.setScale("x", { min: shown[0], max: shown[1] });
      showValues(null);
    }
  };
  smoothing.addEventListener("input", change);
  controls.addEventListener("click", (event) => {
    const [low, high] = shown, width = high - low, way = event.target.dataset.zoom;
    if (way === "in") show(low + width / 4, high - width / 4);
    if (way === "out") show(low - width / 2, high + width / 2);
    if (way === "left") show(low - width / 4, high - width / 4);
    if (way === "right") show(low + width / 4, high + width / 4);
    if (way === "all") show(first, last);
  });
  smoothing.value = data.charts.some((chart) => chart.x.length > 100) ? 0.6 : 0;
  controls.hidden = false;
  change();
  show(first, last);
})();
