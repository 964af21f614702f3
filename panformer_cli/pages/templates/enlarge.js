// A click enlarges an image; the arrow keys show the next or previous one that is not hidden.
const dialog = document.querySelector("dialog");
let links = [], shown = 0;

function show(i) {
  shown = (i + links.length) % links.length;
  const image = dialog.querySelector("img");
  image.src = links[shown].href;
  const small = links[shown].querySelector("img"); // has its size as attributes; larger than twice it would be blurred
  image.style.maxWidth = 2 * small.getAttribute("width") + "px";
  image.style.maxHeight = "min(calc(100% - 34px), " + 2 * small.getAttribute("height") + "px)";
  image.alt = links[shown].querySelector("img").alt;
  dialog.querySelector("div").textContent = image.alt + "  (" + (shown + 1) + " of " + links.length + ")";
  if (!dialog.open) dialog.showModal();
}

document.querySelectorAll("figure a").forEach(link => link.addEventListener("click", event => {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  links = [...document.querySelectorAll("figure:not([hidden]) a")];
  show(links.indexOf(link));
}));
dialog.addEventListener("click", () => dialog.close());
dialog.addEventListener("keydown", event => {
  if (event.key === "ArrowRight") show(shown + 1);
  if (event.key === "ArrowLeft") show(shown - 1);
});
