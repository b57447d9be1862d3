// The slider over the practical thresholds: it colours the heatmap and names the statuses
// anew from what stands in the page as data, without asking the server, and writes itself
// into the address, from which the server draws the same. See components/threshold.py.
"use strict";

(() => {
  const SIGNS = { PASS: "\u2713", WARN: "!", FAIL: "\u2715" };
  const box = () => document.querySelector("#page .threshold");
  const slider = () => document.getElementById("threshold");

  const status = (step, fails, warns) =>
    (step < fails ? "FAIL" : step < warns ? "WARN" : "PASS");

  // Where a multiple falls on the colour scale, as figures/grid.py shades it.
  function shade(value, heat) {
    if (value === null) return 0;
    if (value <= 1) return heat.threshold_at * value;
    const share = Math.log(Math.min(value, heat.cap)) / Math.log(heat.cap);
    return heat.threshold_at + (1 - heat.threshold_at) * share;
  }

  // The colour of a cell, as figures/trial.py heats it.
  function colour(value, kind, multiplier, heat) {
    let place = shade(value, heat);
    if (heat.by === "threshold" && value !== null) {
      const most = { PASS: 1, WARN: 2, FAIL: Infinity }[kind];
      place = shade(Math.min(value / multiplier, most), heat);
    }
    if (kind !== "PASS") return Math.max(place, heat.threshold_at);
    const share = heat.by === "floor" ? place : Math.min(place / heat.threshold_at, 1);
    return heat.passed_at * share;
  }

  // What each chart shows: the data it was drawn from and the step of the slider.
  const drawn = new WeakMap();

  function recolour(step, multiplier) {
    for (const data of document.querySelectorAll("#page .heat-data")) {
      const chart = data.parentElement.querySelector(".js-plotly-plot");
      if (!chart?.data || !window.Plotly) continue;
      const heat = JSON.parse(data.dataset.heat);
      const last = drawn.get(chart);
      const shown = last?.from === data.dataset.heat ? last.step : heat.step;
      drawn.set(chart, { from: data.dataset.heat, step });
      if (shown === step) continue;
      const kinds = heat.fails.map((row, i) => row.map((fails, j) =>
        (fails < 0 ? "" : status(step, fails, heat.warns[i][j]))));
      const z = kinds.map((row, i) => row.map((kind, j) =>
        (kind ? colour(heat.values[i][j], kind, multiplier, heat) : null)));
      const text = kinds.map((row) => row.map((kind) =>
        (kind === "WARN" || kind === "FAIL" ? SIGNS[kind] : "")));
      window.Plotly.restyle(chart, { z: [z], text: [text] }, [0]);
    }
  }

  function rename(step) {
    for (const cell of document.querySelectorAll("#page .held")) {
      const word = cell.firstElementChild;
      const kind = status(step, Number(cell.dataset.fails), Number(cell.dataset.warns));
      const text = `${SIGNS[kind]} ${kind}`;
      if (word.textContent !== text) word.firstChild.data = text;
      if (word.className !== kind) word.className = kind;
    }
  }

  // Show a step of the slider everywhere on the page; nothing is touched that is right.
  function show(step) {
    const around = box();
    if (!around) return;
    const steps = JSON.parse(around.dataset.steps);
    const [fails, warns] = JSON.parse(around.dataset.counts)[step];
    const multiplier = Number(steps[step]);
    const said = `${fails} fail, ${warns} suspicious at ${steps[step]}\u00d7 the thresholds`;
    const told = around.querySelector(".told");
    if (told.textContent !== said) told.textContent = said;
    around.classList.toggle("moved", multiplier !== 1);
    const field = slider();
    if (field.getAttribute("aria-valuetext") !== said) {
      field.setAttribute("aria-valuetext", said);
    }
    rename(step);
    recolour(step, multiplier);
  }

  function stepOfAddress() {
    const steps = JSON.parse(box().dataset.steps);
    const wanted = new URL(window.location.href).searchParams.get("thr") || "1";
    return Math.max(steps.indexOf(wanted), 0);
  }

  let waiting = 0;
  document.addEventListener("input", (event) => {
    if (event.target.id !== "threshold") return;
    const step = Number(event.target.value);
    const text = JSON.parse(box().dataset.steps)[step];
    show(step);
    clearTimeout(waiting); // browsers refuse more than 100 changes of the address in 30 s
    waiting = setTimeout(() => {
      waiting = 0;
      window.history.replaceState({}, "", ffn.with({ thr: text === "1" ? "" : text }));
    }, 120);
  });

  function place(step) {
    const set = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set;
    set.call(slider(), step);
    slider().dispatchEvent(new Event("input", { bubbles: true }));
  }

  document.addEventListener("click", (event) => {
    if (event.target.closest?.("[data-threshold-reset]")) {
      place(JSON.parse(box().dataset.steps).indexOf("1"));
      return;
    }
    // A link to another view of this page keeps what the slider says.
    const link = event.target.closest?.("#page a");
    if (!link || !box() || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const url = new URL(link.href);
    if (url.pathname !== window.location.pathname) return;
    const now = new URL(window.location.href).searchParams.get("thr");
    if ((url.searchParams.get("thr") || "") === (now || "")) return;
    if (now) url.searchParams.set("thr", now);
    else url.searchParams.delete("thr");
    event.preventDefault();
    event.stopPropagation();
    ffn.go(url.pathname + url.search);
  }, true);

  // A page that was drawn anew, and a chart that came later than its page.
  const again = () => {
    if (!box() || !slider()) return;
    show(waiting ? Number(slider().value) : stepOfAddress());
  };
  const start = () => {
    const page = document.getElementById("page");
    if (!page) return void setTimeout(start, 50);
    let asked = 0;
    new MutationObserver(() => {
      cancelAnimationFrame(asked);
      asked = requestAnimationFrame(again);
    }).observe(page, { childList: true, subtree: true });
    again();
  };
  start();
})();
