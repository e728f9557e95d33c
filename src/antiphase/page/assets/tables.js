// Tables: they are built from rows, and can be downloaded as CSV with all digits.
import { element } from "./core.js";
import { visible } from "./text.js";

export const CSV = new Map(); // name → function that returns {header, rows}

/** Fill a table. A cell is a text, a node, or `{text}` for a number. The first cell of a row is its heading. */
export function fillTable(table, caption, header, rows) {
  const numeric = header.map((_, column) => rows.some((row) => typeof row[column] === "object" && row[column] !== null && !(row[column] instanceof Node)));
  table.replaceChildren(
    element("caption", { class: "hidden" }, caption),
    element("thead", {}, element("tr", {}, header.map((text, i) => element("th", { scope: "col", class: numeric[i] ? "num" : null }, text)))),
    element("tbody", {}, rows.map((row) => element("tr", {}, row.map((cell, i) => {
      if (cell instanceof Node) return element(i ? "td" : "th", i ? {} : { scope: "row" }, cell);
      if (typeof cell === "object" && cell !== null) return element("td", { class: "num" }, cell.text);
      return element(i ? "td" : "th", i ? {} : { scope: "row" }, element("bdi", {}, visible(String(cell ?? ""))));
    })))),
  );
}

/** The header and the rows of a table in the page, as texts. */
function tableOf(table) {
  const texts = (row) => [...row.cells].map((cell) => cell.textContent.trim());
  return { header: texts(table.tHead.rows[0]), rows: [...table.tBodies[0].rows].map(texts) };
}

/**
 * One CSV cell. Numbers keep all digits. Text that looks like a formula to a spreadsheet gets an apostrophe before it.
 */
function csvCell(value) {
  if (value === null || value === undefined || (typeof value === "number" && !Number.isFinite(value))) return "";
  if (typeof value === "number" || typeof value === "boolean") return String(value);
  let text = String(value).replace(/[\ud800-\udfff]/gu, "\ufffd");
  if (/^[+−][\d.]+/.test(text)) text = text.replaceAll("\u2212", "-");
  if (text.length > 1 && /^[=+\-@\t\r]/.test(text) && !/^[+-][\d.]+($| \[)/.test(text)) text = `'${text}`;
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

const csvText = ({ header, rows }) => [header, ...rows].map((row) => row.map(csvCell).join(",")).join("\r\n") + "\r\n";

function download(name) {
  const table = CSV.has(name) ? CSV.get(name)() : tableOf(document.querySelector(`table[data-table="${name}"]`));
  // The byte order mark at the start tells a spreadsheet that the file is UTF-8.
  const address = URL.createObjectURL(new Blob(["\ufeff", csvText(table)], { type: "text/csv;charset=utf-8" }));
  const link = element("a", { href: address, download: `${name}.csv` });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

export function wireDownloads() {
  for (const button of document.querySelectorAll("button.csv")) button.addEventListener("click", () => download(button.dataset.csv));
}
