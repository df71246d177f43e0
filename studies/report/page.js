// A click on a header sorts, a second one the other way; "#sort=trials:2" does it on opening, and
// "#sort=trials:-2" downwards (columns count from 0). Cells without a value always come last.
const text = (row, column) => row.cells[column].textContent.trim();
const missing = value => value === "" || value === "—" || value === "nan";
const number = value => parseFloat(value.replace("−", "-").replace(/inf$/, "Infinity")
  .replace(/(\d),(?=\d{3})/g, "$1"));
function sort(table, column, down) {
  const body = table.tBodies[0], rows = [...body.rows];
  const numeric = rows.map(row => text(row, column)).every(t => missing(t) || !isNaN(number(t)));
  const compare = numeric ? (a, b) => number(a) < number(b) ? -1 : number(a) > number(b) ? 1 : 0
    : (a, b) => a.localeCompare(b, "en", {numeric: true});
  rows.sort((one, other) => {
    const a = text(one, column), b = text(other, column);
    return missing(a) - missing(b) || (missing(a) ? 0 : down ? compare(b, a) : compare(a, b));
  });
  body.append(...rows);
  [...table.tHead.rows[0].cells].forEach(cell => cell.removeAttribute("aria-sort"));
  table.tHead.rows[0].cells[column].setAttribute("aria-sort", down ? "descending" : "ascending");
}
document.querySelectorAll("table.sortable").forEach(table =>
  table.querySelectorAll("th button").forEach((button, column) => button.onclick = () =>
    sort(table, column, button.parentNode.getAttribute("aria-sort") === "ascending")));
const asked = location.hash.match(/^#sort=([\w-]+):(-?)(\d+)$/);
if (asked) sort(document.getElementById(asked[1]), +asked[3], asked[2] === "-");
