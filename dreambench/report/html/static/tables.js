"use strict";
/* Tables that can be sorted and filtered, and the tabs of a page. Text comes in as textContent. */
(() => {
  const make = (name, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(name), properties);
    element.append(...children);
    return element;
  };
  window.dreambench = { make };

  const order = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
  const keyOf = (cell) => {
    if (!cell) return null;
    if (cell.dataset.key !== undefined) {
      const number = Number(cell.dataset.key);
      return Number.isNaN(number) || cell.dataset.key === "" ? cell.dataset.key : number;
    }
    const text = cell.textContent.trim();
    return text === "" || text === "-" ? null : text;
  };
  /* What is nothing comes last, whatever the direction. */
  const compare = (a, b, sign) => {
    if (a === null || b === null) return (a === null) - (b === null);
    const isNumber = typeof a === "number" && typeof b === "number";
    return sign * (isNumber ? a - b : order.compare(String(a), String(b)));
  };

  /* Where headings have groups above them, theirs is the last row. */
  const headingsOf = (table) => [...table.tHead.rows[table.tHead.rows.length - 1].cells];

  const sortBy = (table, heading, index) => {
    const known = heading.getAttribute("aria-sort");
    const first = heading.dataset.better === "up" ? "descending" : "ascending";
    const second = first === "ascending" ? "descending" : "ascending";
    const chosen = known === first ? second : first;
    for (const one of headingsOf(table)) one.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", chosen);
    const rows = [...table.tBodies[0].rows].map((row) => [keyOf(row.cells[index]), row]);
    rows.sort((a, b) => compare(a[0], b[0], chosen === "ascending" ? 1 : -1));
    table.tBodies[0].append(...rows.map(([, row]) => row));
  };

  const addSorting = (table) => {
    if (table.tBodies[0].rows.length < 2) return;
    headingsOf(table).forEach((heading, index) => {
      if (!heading.textContent.trim()) return;
      const button = make("button", { type: "button" }, ...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => sortBy(table, heading, index));
    });
  };

  /* A field for text, and a choice for each column that has data-facet, and for each name that
     elements in rows have as data-facet. */
  const addFilter = (table) => {
    const rows = [...table.tBodies[0].rows];
    const field = make("input", { type: "search", autocomplete: "off", spellcheck: false });
    const count = make("output");
    const choices = [];
    const tools = make("div", { className: "tools" }, make("label", {}, "Filter rows", field));
    const addChoice = (title, valueOf) => {
      const values = new Set(rows.map(valueOf));
      if (values.size < 2) return;
      const options = [...values].sort(order.compare).map((value) => make("option", { value }, value));
      const select = make("select", {}, make("option", { value: "" }, "all"), ...options);
      choices.push([valueOf, select]);
      tools.append(make("label", {}, title, select));
    };
    headingsOf(table).forEach((heading, index) => {
      if (heading.dataset.facet === undefined) return;
      const title = heading.dataset.facet || heading.textContent.trim();
      addChoice(title, (row) => row.cells[index].textContent.trim());
    });
    const named = [...table.tBodies[0].querySelectorAll("[data-facet]")];
    for (const name of new Set(named.map((one) => one.dataset.facet))) {
      const find = (row) => [...row.querySelectorAll("[data-facet]")].find((one) => one.dataset.facet === name);
      addChoice(name, (row) => (find(row) ? find(row).textContent.trim() : ""));
    }
    tools.append(count);
    const apply = () => {
      const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !(words.every((word) => text.includes(word)) && choices.every(
          ([valueOf, select]) => !select.value || valueOf(row) === select.value));
        shown += !row.hidden;
      }
      count.textContent = shown === rows.length ? `${shown} rows` : `${shown} of ${rows.length} rows`;
    };
    tools.addEventListener("input", apply);
    apply();
    (table.closest(".scroll") || table).before(tools);
  };

  for (const table of document.querySelectorAll("table.sortable")) addSorting(table);
  for (const table of document.querySelectorAll("table[data-filter]")) addFilter(table);

  /* Tabs show one part of a page; without this script all parts are there. */
  const parts = [...document.querySelectorAll("[data-part]")];
  const showPart = () => {
    if (!parts.length) return;
    const name = location.hash.slice(1).split("&")[0];
    const target = name && document.getElementById(name);
    const shown = (target && target.closest("[data-part]")) || parts[0];
    for (const part of parts) part.hidden = part !== shown;
    for (const link of document.querySelectorAll(".tabs a")) {
      if (link.hash === `#${shown.id}`) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    if (target && target !== shown) target.scrollIntoView();
    else if (name) scrollTo(0, 0);
    document.dispatchEvent(new CustomEvent("part", { detail: shown.id }));
  };
  addEventListener("hashchange", showPart);
  document.addEventListener("DOMContentLoaded", showPart);
})();
