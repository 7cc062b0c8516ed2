(function () {
  "use strict";
  var table = document.getElementById("points");
  var heads = Array.prototype.slice.call(table.tHead.rows[0].cells);

  function value(row, at) {
    var cell = row.cells[at];
    return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
  }

  function order(a, b) {
    if (typeof a === "number" && typeof b === "number") { return a - b; }
    return String(a).localeCompare(String(b), undefined, { numeric: true });
  }

  function sortBy(at) {
    var rising = heads[at].getAttribute("aria-sort") !== "ascending";
    heads.forEach(function (head) { head.setAttribute("aria-sort", "none"); });
    heads[at].setAttribute("aria-sort", rising ? "ascending" : "descending");
    var rows = Array.prototype.slice.call(table.tBodies[0].rows);
    rows.sort(function (a, b) { return (rising ? 1 : -1) * order(value(a, at), value(b, at)); });
    rows.forEach(function (row) { table.tBodies[0].appendChild(row); });
  }

  heads.forEach(function (head, at) {
    head.addEventListener("click", function () { sortBy(at); });
    head.addEventListener("keydown", function (event) { if (event.key === "Enter") { sortBy(at); } });
  });
}());
