// Keys, and the filter of exported lists. Every page works without this.
"use strict";
(() => {
  const body = document.body, help = document.getElementById("keys"), found = (query) => document.querySelector(query);
  const rows = () => [...document.querySelectorAll("a[data-row]")].filter((row) => row.offsetParent !== null);

  function move(step) {
    const all = rows(), at = all.indexOf(document.activeElement);
    if (all.length) all[Math.max(0, Math.min(all.length - 1, at < 0 ? (step > 0 ? 0 : all.length - 1) : at + step))].focus();
  }

  function follow(key) {
    const link = found(`a[data-key="${key}"]`);
    if (link) link.click();
    return Boolean(link);
  }

  function search() {
    const field = found('input[type="search"]');
    if (field) { field.focus(); field.select(); return true; }
    return follow("u");
  }

  function choose(number) {
    if (body.dataset.page === "exported") {
      const chosen = document.querySelectorAll(`details[data-sample="${number}"]`);
      if (chosen.length) document.querySelectorAll("details[data-sample]").forEach((one) => { one.open = one.dataset.sample === number; });
    } else if (Number(number) <= Number(body.dataset.samples || 0)) {
      const address = new URL(location.href);
      address.searchParams.set("a_sample", number);
      address.searchParams.set("b_sample", number);
      location.assign(address);
    }
  }

  function toggle() { if (help.open) help.close(); else help.showModal(); }

  const keys = {
    "/": search, "?": toggle, u: () => follow("u"), n: () => follow("n"), p: () => follow("p"),
    j: () => move(1), ArrowDown: () => move(1), k: () => move(-1), ArrowUp: () => move(-1),
  };
  document.addEventListener("keydown", (event) => {
    const at = event.target;
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (at.closest("input, select, textarea")) { if (event.key === "Escape") at.blur(); return; }
    if (help.open && event.key !== "?") return;
    // Arrows belong to whatever scrolls: they move rows only where there are rows, and not from within a text.
    if (event.key.startsWith("Arrow") && (!rows().length || at.closest('[role="region"], pre'))) return;
    if (/^[1-9]$/.test(event.key)) choose(event.key);
    else if (Object.hasOwn(keys, event.key)) { event.preventDefault(); keys[event.key](); }
  });

  const button = found("button[data-keys]");
  if (button) { button.hidden = false; button.addEventListener("click", toggle); }
  document.querySelectorAll("form[data-tidy]").forEach((form) => form.addEventListener("formdata", (event) => {
    for (const [name, value] of [...event.formData]) if (!value || (name === "show" && value === "all") || (name === "sort" && value === "id")) event.formData.delete(name);
  }));

  const filter = found("form[data-filter]");
  if (filter) {
    const lines = [...document.querySelectorAll("tr[data-words]")], count = found("[data-count]");
    const apply = () => {
      const words = filter.elements.q.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const line of lines) {
        const fits = words.every((word) => line.dataset.words.includes(word)) &&
          ["dataset", "hops", "type"].every((name) => !filter.elements[name].value || filter.elements[name].value === line.dataset[name]);
        line.hidden = !fits;
        shown += fits;
      }
      count.textContent = `${shown} of ${lines.length} questions`;
    };
    filter.hidden = false;
    filter.addEventListener("input", apply);
    filter.addEventListener("submit", (event) => event.preventDefault());
    apply();
  }

  // A link to a sample opens it, also where it is folded away.
  const reveal = () => {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let one = target; one; one = one.parentElement) if (one.tagName === "DETAILS") one.open = true;
    if (target) target.scrollIntoView();
  };
  addEventListener("hashchange", reveal);
  reveal();
})();
