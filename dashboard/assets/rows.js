// The filter over the rows of the tables, and the row that the keyboard is at.
"use strict";

(() => {
  const field = () => document.getElementById("filter");
  const rows = () => [...document.querySelectorAll("#page tbody tr")]
    .filter((row) => row.offsetParent !== null);

  function filter() {
    const wanted = (field()?.value || "").toLowerCase().split(/\s+/).filter(Boolean);
    for (const table of document.querySelectorAll("#page table")) {
      let shown = 0;
      const body = [...table.querySelectorAll("tbody tr")];
      for (const row of body) {
        const text = row.textContent.toLowerCase();
        const keep = wanted.every((word) => text.includes(word));
        row.classList.toggle("filtered", !keep);
        shown += keep;
      }
      table.classList.toggle("emptied", body.length > 0 && shown === 0);
    }
  }

  let waiting = 0;
  document.addEventListener("input", (event) => {
    if (event.target.id !== "filter") return;
    filter();
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      window.history.replaceState({}, "", ffn.with({ filter: event.target.value }));
    }, 300);
  });

  function move(by) {
    const all = rows();
    if (!all.length) return;
    const at = all.findIndex((row) => row.classList.contains("at"));
    const next = at < 0 ? (by > 0 ? 0 : all.length - 1)
      : Math.min(Math.max(at + by, 0), all.length - 1);
    all[at]?.classList.remove("at");
    all[next].classList.add("at");
    all[next].scrollIntoView({ block: "nearest" });
  }

  window.ffnRows = { move, filter, current: () => rows().find((r) => r.classList.contains("at")) };

  // A page that was drawn anew is filtered anew.
  const start = () => {
    const page = document.getElementById("page");
    if (!page || !field()) return void setTimeout(start, 50);
    const wanted = new URL(window.location.href).searchParams.get("filter");
    const setter = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set;
    if (wanted) setter.call(field(), wanted);
    new MutationObserver(() => field().value && filter()).observe(page, {
      childList: true, subtree: true,
    });
    filter();
  };
  start();
})();
