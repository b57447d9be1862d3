// A chart as a file: SVG as it stands, or PNG at twice its size. Nothing leaves the browser.
"use strict";

document.addEventListener("click", async (event) => {
  const button = event.target.closest?.("button[data-save]");
  if (!button) return;
  const chart = button.closest(".figure")?.querySelector(".js-plotly-plot");
  if (!chart || !window.Plotly) return void ffn.say("the chart is not drawn yet");
  const { width, height } = chart.getBoundingClientRect();
  const style = getComputedStyle(document.body);
  const layout = structuredClone(chart.layout);
  layout.paper_bgcolor = style.backgroundColor;
  layout.font = { ...layout.font, color: style.getPropertyValue("--dim") ? style.color : "#737a82" };
  await Plotly.downloadImage(
    { data: chart.data, layout, config: { displaylogo: false } },
    {
      format: button.dataset.save,
      width: Math.round(width),
      height: Math.round(height),
      scale: button.dataset.save === "png" ? 2 : 1,
      filename: button.dataset.name || "chart",
    },
  );
  ffn.say(`${button.dataset.name || "chart"}.${button.dataset.save} saved`);
});
