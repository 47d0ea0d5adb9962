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
