"use strict";
// The page is whole without this: it adds buttons that sort, a field that finds, and opens what is folded for print.
(() => {
  const unitsOf = (table) => [...(table.classList.contains("groups") ? table.tBodies : table.tBodies[0].rows)];
  const cell = (unit, column) => (unit.rows ? unit.rows[0] : unit).cells[column].textContent.trim();
  const collator = new Intl.Collator("en", { numeric: true });

  const sort = (table, head) => {
    const heads = [...table.tHead.rows[0].cells];
    const column = heads.indexOf(head);
    const isNumber = head.classList.contains("n");
    const before = head.getAttribute("aria-sort");
    const order = (before ? before === "descending" : !isNumber) ? "ascending" : "descending";
    const key = (unit) => (isNumber ? Number(cell(unit, column).replaceAll(",", "")) : cell(unit, column));
    const keyed = unitsOf(table).map((unit) => [key(unit), unit]);
    keyed.sort(([a], [b]) => (isNumber ? a - b : collator.compare(a, b)) * (order === "ascending" ? 1 : -1));
    const parent = table.classList.contains("groups") ? table : table.tBodies[0];
    parent.append(...keyed.map(([, unit]) => unit));
    heads.forEach((it) => it.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order);
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    for (const head of table.tHead.rows[0].cells) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sort(table, head));
      head.append(button);
    }
  }

  const tables = [...document.querySelectorAll("table.find")].map((table) => ({
    fold: table.closest("details"),
    units: unitsOf(table).map((unit) => [unit, unit.textContent.toLowerCase()]),
  }));
  const find = (wanted) => {
    let found = 0;
    for (const { fold, units } of tables) {
      let here = 0;
      for (const [unit, text] of units) {
        unit.hidden = !text.includes(wanted);
        here += unit.hidden ? 0 : 1;
      }
      if (fold) fold.open = wanted !== "" && here > 0;
      found += here;
    }
    document.getElementById("found").textContent = wanted ? `${found} found` : "";
  };
  const form = document.getElementById("find");
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", (event) => find(event.target.value.trim().toLowerCase()));

  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    folded.forEach((it) => (it.open = true));
  });
  addEventListener("afterprint", () => folded.forEach((it) => (it.open = false)));
})();
