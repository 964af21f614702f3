// The grid: cards that open the viewer. Cards are added while the page is scrolled, and thumbnails load when they are
// visible, so that thousands of images stay quick.
const gallery = JSON.parse(document.getElementById("gallery-data")?.textContent ?? '{"categories":[],"images":[]}');
const FIRST_CARDS = 60;
const visible = new IntersectionObserver(entries => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    target.firstChild.src = target.dataset.source;
    visible.unobserve(target);
  }
});

// A holder has a list for the cards and, optionally, a search. Its images are a part of all images of the page.
class Grid {
  constructor(holder) {
    const first = Number(holder.dataset.first), count = Number(holder.dataset.count);
    this.holder = holder;
    this.list = holder.querySelector("ol");
    this.box = holder.querySelector("input");
    this.all = Array.from({ length: count }, (_, number) => first + number);
    const isNear = entries => entries.some(entry => entry.isIntersecting);
    this.end = new IntersectionObserver(entries => isNear(entries) && this.add(), { rootMargin: "400px" });
    this.list.addEventListener("click", event => {
      const card = event.target.closest("[data-image]");
      if (card) openViewer(this, this.shown, this.shown.indexOf(Number(card.dataset.image)), card);
    });
    this.box?.addEventListener("input", () => this.search());
    holder.querySelector(".chips")?.addEventListener("click", event => this.toggleTerm(event.target.closest("button")));
    this.show(this.all);
  }

  show(images) {
    this.shown = images;
    this.list.querySelectorAll(".frame").forEach(frame => visible.unobserve(frame));
    this.list.replaceChildren();
    this.add();
  }

  add() {
    const from = this.list.children.length;
    for (const number of this.shown.slice(from, from + FIRST_CARDS)) this.list.append(cardOf(number));
    // An observer reports only changes: observe again, in case the end of the list is still near.
    const end = this.holder.querySelector(".end");
    this.end.unobserve(end);
    if (this.list.children.length < this.shown.length) this.end.observe(end);
  }

  search() {
    const query = this.box.value.trim(), output = this.holder.querySelector("output");
    let found = this.all, problem = "";
    try {
      const matches = query ? parseQuery(query, gallery.categories) : () => true;
      found = this.all.filter(number => matches(gallery.images[number]));
    } catch (error) {
      problem = error.message;
    }
    const total = this.all.length.toLocaleString("en") + (this.all.length === 1 ? " image" : " images");
    output.textContent = problem || (query ? found.length.toLocaleString("en") + " of " + total : total);
    this.holder.querySelectorAll(".chips button").forEach(chip =>
      chip.setAttribute("aria-pressed", String(this.terms().includes(quoted(chip.dataset.term)))));
    if (problem) return;
    this.holder.querySelector(".nothing").hidden = found.length > 0;
    this.show(found);
  }

  // The terms that "and" connects, with their quotes.
  terms() {
    return this.box.value.split(/\s+and\s+(?=(?:[^"]*"[^"]*")*[^"]*$)/i).map(term => term.trim()).filter(Boolean);
  }

  // A category adds its name to the search, or removes it.
  toggleTerm(chip) {
    if (!chip) return;
    const term = quoted(chip.dataset.term), terms = this.terms();
    this.box.value = (terms.includes(term) ? terms.filter(other => other !== term) : [...terms, term]).join(" and ");
    this.search();
  }

  // Return the card of an image, which may have to be added first.
  card(position) {
    while (this.list.children.length <= position && this.list.children.length < this.shown.length) this.add();
    return this.list.children[position]?.querySelector("button");
  }
}

function cardOf(number) {
  const image = gallery.images[number], [height, width] = image.smallSize;
  const item = document.createElement("li"), button = document.createElement("button"), frame = document.createElement("span");
  button.type = "button";
  button.dataset.image = number;
  button.disabled = !image.layers;
  frame.className = "frame";
  if (image.small) {
    const picture = document.createElement("img");
    Object.assign(picture, { alt: "", width, height });
    picture.style.width = 2 * width + "px"; // at most twice its size; larger thumbnails are limited by the card
    frame.dataset.source = image.small;
    frame.append(picture);
    visible.observe(frame);
  }
  button.append(frame, textIn("b", image.name), textIn("small", image.detail));
  item.append(button);
  return item;
}

// Return the name of a category as a term of the search. A name cannot contain quotes, so their longest part is taken.
function quoted(name) {
  const longest = name.split('"').sort((a, b) => b.length - a.length)[0].trim();
  return /[,<>]|\b(and|or|not)\b/i.test(longest) ? '"' + longest + '"' : longest;
}

function textIn(tag, text) {
  const element = document.createElement(tag);
  element.textContent = text;
  return element;
}

const grids = [...document.querySelectorAll("[data-first]")].map(holder => new Grid(holder));

// A button outside of the grids opens the viewer, too.
document.addEventListener("click", event => {
  const button = event.target.closest("[data-show]");
  if (!button) return;
  const number = Number(button.dataset.show), grid = grids.find(grid => grid.all.includes(number));
  openViewer(grid, grid.all, grid.all.indexOf(number), button);
});
// A slash moves to the search, as in many programs.
document.addEventListener("keydown", event => {
  const box = grids.find(grid => grid.box)?.box;
  if (event.key !== "/" || !box || event.target.closest("input, dialog") || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  box.focus();
});
