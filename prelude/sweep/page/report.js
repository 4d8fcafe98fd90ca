// Sorts the table of points by the column whose head is pressed; pressed again, the other way.
const table = document.getElementById("points");

function order(column, sign) {
  const key = (row) => row.cells[column].dataset.key;
  const compare = (a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === "" || y === "") return (x === "") - (y === "");
    const difference = Number(x) - Number(y);
    return sign * (Number.isNaN(difference) ? x.localeCompare(y) : difference);
  };
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
}

if (table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    order(column, down ? -1 : 1);
  }));
}
