// The slider hides predictions below its score.
for (const slider of document.querySelectorAll(".slider input")) {
  const marks = slider.closest("section").querySelectorAll("[data-score]");
  const show = () => {
    slider.previousElementSibling.value = Number(slider.value).toFixed(2);
    for (const mark of marks) mark.classList.toggle("low", Number(mark.dataset.score) < slider.value);
  };
  slider.addEventListener("input", show);
  show();
}

// The head of a column sorts by it: numbers from the greatest, names from A; what is not measured stays last.
for (const button of document.querySelectorAll(".sortable thead button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement, body = head.closest("table").tBodies[0];
    const names = head.cellIndex === 0;
    const text = (row) => row.cells[head.cellIndex].textContent;
    const number = (row) => Number(row.cells[head.cellIndex].dataset.value ?? text(row).replaceAll(",", ""));
    const missing = (row) => Number(!names && Number.isNaN(number(row)));
    const compare = (a, b) =>
      names ? text(a).localeCompare(text(b), undefined, { numeric: true }) : number(a) - number(b) || 0;
    const first = names ? "ascending" : "descending", second = names ? "descending" : "ascending";
    const chosen = head.getAttribute("aria-sort") === first ? second : first;
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", chosen);
    const sign = chosen === "ascending" ? 1 : -1;
    body.append(...[...body.rows].sort((a, b) => missing(a) - missing(b) || sign * compare(a, b)));
  });
}
