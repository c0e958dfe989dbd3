"use strict";
/* Chooses the metric that a board is ranked by. All ranks were computed before. */
(() => {
  const table = document.getElementById("board");
  if (!table || table.tBodies[0].rows.length < 2) return;
  const rankings = JSON.parse(document.getElementById("rankings").textContent);
  const { make } = window.dreambench;
  const rows = new Map([...table.tBodies[0].rows].map((row) => [row.dataset.record, row]));
  const headings = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  const select = make("select", { id: "rank-by" },
    ...Object.entries(rankings).map(([name, one]) => make("option", { value: name }, one.title)));

  const show = (name) => {
    const chosen = rankings[name];
    for (const heading of headings) heading.removeAttribute("aria-sort");
    headings[0].setAttribute("aria-sort", "ascending");
    const index = headings.findIndex((heading) => heading.dataset.metric === name);
    for (const digest of chosen.order) {
      const row = rows.get(digest);
      const rank = chosen.ranks[digest];
      row.cells[0].textContent = rank === undefined ? "-" : rank;
      if (rank === undefined) delete row.cells[0].dataset.key;
      else row.cells[0].dataset.key = rank;
      table.tBodies[0].append(row);
    }
    for (const row of table.rows) {
      [...row.cells].forEach((cell, place) => {
        if (!row.classList.contains("groups")) cell.classList.toggle("chosen", place === index);
      });
    }
    for (const one of document.querySelectorAll("[data-words]")) {
      one.textContent = chosen[one.dataset.words];
    }
    select.value = name;
  };

  select.addEventListener("change", () => {
    show(select.value);
    location.replace(`#by=${select.value}`);
  });
  const tools = table.closest(".scroll").previousElementSibling;
  tools.prepend(make("label", {}, "Rank by", select));
  const choose = () => {
    const asked = new URLSearchParams(location.hash.slice(1)).get("by");
    if (Object.hasOwn(rankings, asked)) show(asked);
  };
  addEventListener("hashchange", choose);
  choose();
})();
