// A button shows only the suspects of its kind.
const kinds = [...document.querySelectorAll(".kinds button")];

kinds.forEach(button => button.addEventListener("click", () => {
  kinds.forEach(other => other.setAttribute("aria-pressed", other === button));
  document.querySelectorAll("figure").forEach(figure => {
    figure.hidden = button.dataset.kind !== "" && figure.dataset.kind !== button.dataset.kind;
  });
}));
