// Tables sort by the column whose heading is pressed, numbers by number, and show the rows with all given words,
// which find a name however it is spelled: resnet18 and ResNet-18.
"use strict";
function value(row, place) {
  const cell = row.cells[place];
  const text = cell.dataset.sort ?? cell.textContent.trim();
  const number = Number.parseFloat(text);
  return { text, number, none: text === "" || cell.querySelector(":scope > .none") !== null };
}
function plain(text) {
  return text.toLowerCase().replace(/[-_+]/g, "");
}
function sort(table, place, descending, byNumber) {
  const sign = descending ? -1 : 1;
  const rows = Array.from(table.tBodies[0].rows, (row) => ({ row, key: value(row, place) }));
  rows.sort((a, b) => {
    if (a.key.none || b.key.none) return a.key.none - b.key.none;
    if (byNumber && !Number.isNaN(a.key.number) && !Number.isNaN(b.key.number)) return sign * (a.key.number - b.key.number);
    return sign * a.key.text.localeCompare(b.key.text, "en", { numeric: true });
  });
  table.tBodies[0].append(...rows.map((each) => each.row));
}
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = Array.from(table.tHead.rows[0].cells);
  headings.forEach((heading, place) => {
    const button = heading.querySelector("button.sort");
    if (button === null) return;
    button.addEventListener("click", () => {
      const descending = heading.getAttribute("aria-sort") === "ascending";
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sort(table, place, descending, heading.classList.contains("numbers"));
    });
  });
}
for (const input of document.querySelectorAll("input[data-filter]")) {
  const table = document.getElementById(input.dataset.filter);
  const told = document.querySelector(`[data-count="${input.dataset.filter}"]`);
  const show = () => {
    const words = input.value.split(/\s+/).map(plain).filter(Boolean);
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      const text = plain(row.textContent);
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    told.textContent = words.length ? `${shown} of ${table.tBodies[0].rows.length}` : "";
  };
  input.addEventListener("input", show);
  show();
}
