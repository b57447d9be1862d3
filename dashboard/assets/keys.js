// The keyboard: see KEYS in components/shell.py, which the help lists.
"use strict";

(() => {
  const typing = (target) => target.isContentEditable
    || ["INPUT", "TEXTAREA", "SELECT"].includes(target.tagName);

  const KEYS = {
    "?": () => document.getElementById("help")?.showModal(),
    "/": () => document.getElementById("filter")?.focus(),
    j: () => ffnRows.move(1),
    k: () => ffnRows.move(-1),
    "[": () => document.querySelector("#page a.prev-layer")?.click(),
    "]": () => document.querySelector("#page a.next-layer")?.click(),
    t: () => ffn.nextScheme(),
    c: () => ffn.copy(window.location.href, "link"),
    Escape: () => window.history.back(),
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (document.querySelector("dialog[open]")) return; // closes itself on Escape
    if (typing(event.target)) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (event.key === "Enter") {
      const link = ffnRows.current()?.querySelector("a");
      if (link && ["BODY", "MAIN"].includes(document.activeElement.tagName)) link.click();
      return;
    }
    const act = KEYS[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
})();
