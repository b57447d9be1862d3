// Controls whose state is the address, the colour scheme, and what is copied.
"use strict";

const ffn = {
  // Go to another view of the dashboard without loading the frame again.
  go(href) {
    window.history.pushState({}, "", href);
    window.dispatchEvent(new CustomEvent("_dashprivate_pushstate"));
  },

  // The address with some parameters changed; an empty value takes one out.
  with(changes) {
    const url = new URL(window.location.href);
    for (const [key, value] of Object.entries(changes)) {
      if (value === "") url.searchParams.delete(key);
      else url.searchParams.set(key, value);
    }
    return url.pathname + url.search;
  },

  say(text) {
    const said = document.getElementById("said");
    if (!said) return;
    said.textContent = text;
    said.classList.add("shown");
    clearTimeout(ffn.saying);
    ffn.saying = setTimeout(() => said.classList.remove("shown"), 1800);
  },

  async copy(text, what) {
    try {
      await navigator.clipboard.writeText(text);
      ffn.say(`${what} copied`);
    } catch {
      window.prompt("Copy this:", text); // no clipboard without permission
    }
  },

  scheme(name) {
    if (name) document.documentElement.dataset.scheme = name;
    else delete document.documentElement.dataset.scheme;
  },

  nextScheme() {
    const order = ["", "dark", "light"];
    const now = document.documentElement.dataset.scheme || "";
    const next = order[(order.indexOf(now) + 1) % order.length];
    ffn.scheme(next);
    try { localStorage.setItem("ffn-probe-scheme", next); } catch { /* private window */ }
    ffn.say(next ? `${next} colours` : "colours as the system says");
  },
};
window.ffn = ffn;

try { ffn.scheme(localStorage.getItem("ffn-probe-scheme") || ""); } catch { /* private window */ }

document.addEventListener("change", (event) => {
  const select = event.target.closest?.("select[data-key]");
  if (select) ffn.go(ffn.with({ [select.dataset.key]: select.value }));
}, true);

// A file that takes long to be written says so, and how long it has been.
async function save(link) {
  const began = performance.now();
  const told = setInterval(() => {
    ffn.say(`Writing ${link.textContent}: ${Math.round((performance.now() - began) / 1000)} s`);
  }, 500);
  try {
    const answer = await fetch(link.href);
    if (!answer.ok) throw new Error(await answer.text());
    const named = /filename="([^"]+)"/.exec(answer.headers.get("Content-Disposition") || "");
    const url = URL.createObjectURL(await answer.blob());
    const file = Object.assign(document.createElement("a"), {
      href: url, download: named?.[1] || "ffn-probe",
    });
    file.click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
    ffn.say(`${file.download} saved`);
  } catch (error) {
    ffn.say(`not written: ${error.message}`);
  } finally {
    clearInterval(told);
  }
}

document.addEventListener("click", (event) => {
  const file = event.target.closest?.("a[data-file]");
  if (file && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    save(file);
    return;
  }
  const button = event.target.closest?.("button");
  if (!button) return;
  const { copy, what, open, close } = button.dataset;
  if (copy !== undefined) ffn.copy(copy || window.location.href, what || "command");
  if (open) document.getElementById(open)?.showModal();
  if (close) document.getElementById(close)?.close();
  if (button.dataset.themeSwitch !== undefined) ffn.nextScheme();
});
