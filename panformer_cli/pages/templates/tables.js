"use strict";
// Tables: a click on a column header sorts the rows, text in the search box filters them.
const FIRST_ROWS = 200, MORE_ROWS = 800;

// Return the sort key of a cell, a number or a text; null is sorted last.
function sortValue(row, column) {
  const cell = row.cells[column];
  const text = cell.dataset.value ?? cell.textContent;
  const number = Number(text);
  if (text === "") return null;
  return Number.isNaN(number) ? text.toLowerCase() : number;
}

function comparing(direction) {
  const collator = new Intl.Collator("en", { numeric: true });
  return ({ value: a }, { value: b }) => {
    if (a === null || b === null) return (a === null) - (b === null);
    const order = typeof a === "number" && typeof b === "number" ? a - b : collator.compare(String(a), String(b));
    return direction * order;
  };
}

function sortBy(header) {
  const table = header.closest("table"), body = table.tBodies[0];
  const isNumber = header.classList.contains("number");
  const before = header.getAttribute("aria-sort");
  // Numbers are sorted from the largest, names from A; another click reverses the order.
  const descending = before ? before === "ascending" : isNumber;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", descending ? "descending" : "ascending");
  if (body.querySelector(".none")) return; // an empty table
  const rows = [...body.rows].map(row => ({ row, value: sortValue(row, header.cellIndex) }));
  rows.sort(comparing(descending ? -1 : 1));
  body.append(...rows.map(({ row }) => row));
  showRows(table.closest(".table"));
}

// Rendering thousands of rows takes seconds, so a table shows its first rows and a button for more.
function showRows(holder) {
  const box = holder.querySelector(".filter input"), body = holder.querySelector("tbody");
  const words = box ? box.value.toLowerCase().split(/\s+/).filter(Boolean) : [];
  const limit = Number(holder.dataset.limit ?? FIRST_ROWS);
  let found = 0;
  for (const row of body.rows) {
    const matches = words.length === 0 || contains(row, words);
    found += matches;
    row.hidden = !matches || found > limit;
  }
  if (!box) return;
  const all = body.rows.length.toLocaleString("en") + " rows";
  holder.querySelector("output").textContent = words.length ? found.toLocaleString("en") + " of " + all : all;
  showMore(holder, found - limit);
}

function contains(row, words) {
  const text = row.textContent.toLowerCase();
  return words.every(word => text.includes(word));
}

// Add a button below the table if there are more rows.
function showMore(holder, left) {
  holder.querySelector(":scope > .more")?.remove();
  if (left <= 0) return;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "more";
  button.textContent = "Show more (" + left.toLocaleString("en") + " left)";
  button.addEventListener("click", () => {
    holder.dataset.limit = Number(holder.dataset.limit ?? FIRST_ROWS) + MORE_ROWS;
    showRows(holder);
    holder.querySelector(":scope > .more")?.focus();
  });
  holder.append(button);
}

document.addEventListener("click", event => {
  const button = event.target.closest("th button");
  if (button) sortBy(button.closest("th"));
});
document.addEventListener("input", event => {
  if (event.target.matches(".filter input")) showRows(event.target.closest(".table"));
});
document.querySelectorAll(".table").forEach(showRows);
