// Sorting and filtering, added only where scripts run: without them the tables are as complete.
"use strict";

function valueOf(row, column) {
  const cell = row.cells[column];
  const data = cell.querySelector("data");
  const text = data ? data.value : cell.textContent;
  const number = text.trim() === "" ? NaN : Number(text.replace(/inf$/, "Infinity"));
  return { text, number };
}

// Numbers before words, words by their letters.
function compare(a, b) {
  const words = Number.isNaN(a.number) - Number.isNaN(b.number);
  if (words || Number.isNaN(a.number)) return words || a.text.localeCompare(b.text);
  return a.number < b.number ? -1 : Number(a.number > b.number);
}

function sortBy(table, column) {
  const heads = [...table.tHead.rows[0].cells];
  const up = heads[column].getAttribute("aria-sort") !== "ascending";
  for (const head of heads) head.removeAttribute("aria-sort");
  heads[column].setAttribute("aria-sort", up ? "ascending" : "descending");
  const body = table.tBodies[0];
  const keyed = [...body.rows].map((row) => ({ row, value: valueOf(row, column) }));
  keyed.sort((a, b) => (up ? compare(a.value, b.value) : compare(b.value, a.value)));
  body.append(...keyed.map(({ row }) => row));
}

function makeSortable(table) {
  for (const head of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.addEventListener("click", () => sortBy(table, head.cellIndex));
    // On paper a header is repeated on every page, in Chromium without its buttons.
    const printed = document.createElement("span");
    printed.className = "printed";
    printed.textContent = head.textContent;
    head.replaceChildren(button, printed);
  }
}

function makeFilterable(table) {
  const rows = [...table.tBodies[0].rows];
  const label = document.createElement("label");
  const input = document.createElement("input");
  const count = document.createElement("output");
  input.type = "search";
  label.append("Only rows with ", input);
  const show = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const cells = [...row.cells].map((cell) => cell.textContent.toLowerCase());
      row.hidden = !words.every((word) => cells.some((cell) => cell.includes(word)));
    }
    count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
  };
  input.addEventListener("input", show);
  show();
  const box = document.createElement("div");
  box.className = "filter";
  box.append(label, count);
  table.parentElement.before(box);
}

document.querySelectorAll("table.sortable").forEach(makeSortable);
document.querySelectorAll("table.filterable").forEach(makeFilterable);
