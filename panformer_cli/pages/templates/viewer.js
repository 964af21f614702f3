// The viewer: a dialog with one image, its maps as layers over it, and a list of its segments.
//
// A pane shows one side of an image, the ground truth or the prediction: the image, the colors of its segments (a canvas
// in pixels of the image), boundaries and outlines (canvases in pixels of the screen, sharp on every display), and labels.
const viewer = document.getElementById("viewer");
const ERRORS = { missed: [45, 125, 255], "false positive": [255, 92, 20], differs: [255, 214, 0] };
const ENLARGED = 2, SMALLEST_VIEW = 560; // an image is at most doubled; a small one grows to this many CSS pixels
const CAPTION = 26, GAP = 10; // CSS pixels
const SHORT = { "Ground truth": "GT", Prediction: "Pred." }; // in the list of segments
// `images` are the numbers of the images that the arrow keys walk through, and `position` is one of them.
// `pointed` and `isolated` have one segment index for every pane, 0 for none.
const view = { images: [], position: 0, grid: null, opener: null, panes: [], pointed: [], isolated: [] };

// ---- Opening, closing, and going to other images

function openViewer(grid, images, position, opener) {
  Object.assign(view, { grid, images, opener });
  if (!viewer.open) viewer.showModal();
  viewer.focus();
  showImage(position);
}

// The focus returns to the card of the last image, or to the button that opened it.
function returnFocus() {
  leave();
  const number = view.images[view.position], card = view.grid.card(view.grid.shown.indexOf(number));
  const target = view.opener.dataset.show === String(number) ? view.opener : card ?? view.opener;
  target.focus();
}

async function showImage(position) {
  const count = view.images.length;
  view.position = (position + count) % count;
  const image = gallery.images[view.images[view.position]];
  document.getElementById("viewer-name").textContent = image.name;
  document.getElementById("viewer-detail").textContent = image.detail;
  document.getElementById("viewer-place").textContent =
    (view.position + 1).toLocaleString("en") + " of " + count.toLocaleString("en");
  let sides;
  try {
    sides = await loadSides(image);
  } catch (error) {
    if (gallery.images[view.images[view.position]] !== image) return;
    viewer.querySelector(".panes").replaceChildren();
    return say(error.message + "; was the folder of the page copied without it?");
  }
  if (gallery.images[view.images[view.position]] !== image) return; // another image was chosen meanwhile
  show(image, sides);
  preload(view.images[(view.position + 1) % count]);
}

function preload(number) {
  const image = gallery.images[number];
  loadSides(image).catch(() => {});
  if (image.large) new Image().src = image.large;
}

function show(image, sides) {
  view.panes = sides.map(side => newPane(image, side));
  viewer.querySelector(".panes").replaceChildren(...view.panes.map(pane => pane.figure));
  view.pointed = sides.map(() => 0);
  view.isolated = sides.map(() => 0);
  offer("photo", Boolean(image.large));
  for (const layer of ["truth", "prediction"]) offer(layer, sides.length === 2);
  offer("errors", sides.length === 2 && sides.every(side => side.segments.every(segment => segment.state)));
  const drawing = viewer.querySelector("[data-drawing]");
  drawing.hidden = !image.drawing;
  if (image.drawing) drawing.href = image.drawing;
  listSegments(sides);
  isolate(view.isolated);
  showLayers();
}

function newPane(image, side) {
  const figure = document.createElement("figure"), stage = document.createElement("div"), parts = {};
  figure.className = "pane";
  stage.className = "stage";
  for (const [part, tag] of [["photo", "img"], ["fill", "canvas"], ["lines", "canvas"], ["focus", "canvas"], ["labels", "div"]]) {
    parts[part] = document.createElement(tag);
    parts[part].dataset.part = part;
    stage.append(parts[part]);
  }
  parts.photo.alt = "";
  if (image.large) parts.photo.src = image.large;
  figure.append(textIn("figcaption", side.title), stage);
  return { figure, stage, parts, side, image, points: labelPoints(side.map, image.size) };
}

// ---- Layers

function isOn(layer) {
  const box = viewer.querySelector('[data-layer="' + layer + '"]');
  return box.checked && !box.disabled;
}

function offer(layer, exists) {
  const box = viewer.querySelector('[data-layer="' + layer + '"]');
  box.disabled = !exists;
  box.closest("label").hidden = !exists;
}

function showLayers() {
  const single = view.panes.length === 1;
  view.panes.forEach((pane, number) => {
    pane.figure.hidden = !single && !isOn(number === 0 ? "truth" : "prediction");
    pane.parts.photo.hidden = !isOn("photo");
    pane.parts.fill.style.opacity = document.getElementById("opacity").value / 100;
  });
  viewer.querySelector(".legend.errors").hidden = !isOn("errors");
  paintAll();
}

function paintAll() {
  view.panes.forEach(paintFill);
  layOut();
}

// Return for every index of a pane whether it is shown: void is not, and things or stuff may be off.
function shownIndices(pane, number) {
  const only = view.isolated[number];
  return [false, ...pane.side.segments.map((segment, at) => isOn(segment.thing ? "things" : "stuff") && (!only || only === at + 1))];
}

function paintFill(pane, number) {
  const [height, width] = pane.image.size, canvas = pane.parts.fill, { map, segments } = pane.side;
  const shown = shownIndices(pane, number), colorOf = [0, ...segments.map((segment, at) => (shown[at + 1] ? opaque(segment.color) : 0))];
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d"), pixels = context.createImageData(width, height);
  const words = new Uint32Array(pixels.data.buffer);
  if (isOn("errors")) paintErrors(words, number, shown);
  else for (let pixel = 0; pixel < words.length; pixel++) words[pixel] = colorOf[map[pixel]];
  context.putImageData(pixels, 0, 0);
}

function opaque([red, green, blue]) {
  return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

// Missed segments in the ground truth, false positives in the prediction, and in both the pixels of matched segments
// that the other side does not have.
function paintErrors(words, number, shown) {
  const own = view.panes[number].side, other = view.panes[1 - number].side.map;
  const segments = [null, ...own.segments];
  for (let pixel = 0; pixel < words.length; pixel++) {
    const index = own.map[pixel], segment = segments[index];
    if (!segment || !shown[index]) continue;
    const error = segment.state === "matched" && segment.match !== other[pixel] ? "differs" : segment.state;
    if (ERRORS[error]) words[pixel] = opaque(ERRORS[error]);
  }
}

// ---- Size on the screen, and what is drawn at this size

// Place the visible panes beside or below each other, whatever makes the image larger.
function layOut() {
  if (!viewer.open || !view.panes.length) return;
  const holder = viewer.querySelector(".panes"), panes = view.panes.filter(pane => !pane.figure.hidden);
  const [height, width] = view.panes[0].image.size, caption = view.panes.length > 1 ? CAPTION : 0;
  const isPhone = matchMedia("(max-width: 800px)").matches;
  const room = { width: holder.clientWidth, height: isPhone ? 0.58 * innerHeight * panes.length : holder.clientHeight };
  const scaleIn = (columns, rows) => Math.min((room.width - GAP * (columns - 1)) / columns / width,
    ((room.height - GAP * (rows - 1)) / rows - caption) / height);
  const scale = Math.min(Math.max(scaleIn(panes.length, 1), scaleIn(1, panes.length)),
    Math.max(ENLARGED, SMALLEST_VIEW / Math.max(height, width)));
  for (const pane of panes) {
    pane.stage.style.width = Math.max(1, Math.round(width * scale)) + "px";
    pane.stage.style.height = Math.max(1, Math.round(height * scale)) + "px";
    pane.stage.classList.toggle("coarse", scale > ENLARGED);
    pane.scale = pane.stage.clientWidth / width;
    drawLines(pane, view.panes.indexOf(pane));
    drawFocus(pane, view.panes.indexOf(pane));
    placeLabels(pane, view.panes.indexOf(pane));
  }
}

// Return a cleared context in pixels of the image, and the size of a CSS pixel in it. The canvas has screen pixels.
function atScreenSize(canvas, pane) {
  const [height, width] = pane.image.size;
  canvas.width = Math.round(pane.stage.clientWidth * devicePixelRatio);
  canvas.height = Math.round(pane.stage.clientHeight * devicePixelRatio);
  const context = canvas.getContext("2d");
  context.scale(canvas.width / width, canvas.height / height);
  context.lineCap = context.lineJoin = "round";
  return { context, pixel: 1 / pane.scale };
}

function strokeTwice(context, path, inner, outer, pixel) {
  for (const [color, width] of [[outer, 3.2], [inner, 1.4]]) {
    context.strokeStyle = color;
    context.lineWidth = width * pixel;
    context.stroke(path);
  }
}

function drawLines(pane, number) {
  const { context, pixel } = atScreenSize(pane.parts.lines, pane);
  if (!isOn("contours")) return;
  const groups = shownIndices(pane, number).map((isShown, index) => (isShown ? index : 0)), key = groups.join();
  if (pane.drawn !== key) Object.assign(pane, { drawn: key, path: boundaries(pane.side.map, pane.image.size, groups) });
  strokeTwice(context, pane.path, "rgb(255 255 255 / 85%)", "rgb(0 0 0 / 35%)", pixel);
}

// Darken everything but the isolated segment, and outline the segment under the pointer.
function drawFocus(pane, number) {
  const { context, pixel } = atScreenSize(pane.parts.focus, pane), { map, boxes, segments } = pane.side;
  const only = view.isolated[number], pointed = view.pointed[number];
  if (only) {
    context.imageSmoothingEnabled = pane.scale <= ENLARGED;
    context.drawImage(veil(map, pane.image.size, only), 0, 0);
  }
  for (const index of new Set([only, pointed])) {
    if (!index || !boxes[index]) continue;
    const groups = Array.from({ length: segments.length + 1 }, (_, other) => other === index);
    const path = boundaries(map, pane.image.size, groups, boxes[index]);
    strokeTwice(context, path, "#fff", "rgb(0 0 0 / 70%)", 1.8 * pixel);
  }
}

function veil(map, [height, width], only) {
  const canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height), words = new Uint32Array(pixels.data.buffer);
  const dark = ((205 << 24) | (13 << 16) | (11 << 8) | 10) >>> 0;
  for (let pixel = 0; pixel < words.length; pixel++) if (map[pixel] !== only) words[pixel] = dark;
  context.putImageData(pixels, 0, 0);
  return canvas;
}

// Put labels on the segments, the largest first. One that is wider than its segment or would cover another is left out.
function placeLabels(pane, number) {
  const holder = pane.parts.labels, { segments, boxes } = pane.side, shown = shownIndices(pane, number), taken = [];
  holder.replaceChildren();
  if (!isOn("labels")) return;
  const order = segments.map((_, at) => at + 1).filter(index => shown[index] && pane.points[index] && boxes[index]);
  order.sort((a, b) => segments[b - 1].area - segments[a - 1].area);
  const labels = order.map(index => {
    const label = textIn("span", labelText(segments[index - 1]));
    label.dataset.index = index;
    return label;
  });
  holder.append(...labels);
  const sizes = labels.map(label => [label.offsetWidth, label.offsetHeight]); // all at once: one layout
  labels.forEach((label, at) => {
    const [width, height] = sizes[at], point = pane.points[order[at]], [left, top, right, bottom] = boxes[order[at]];
    const x = Math.min(Math.max(point.x * pane.scale - width / 2, 0), pane.stage.clientWidth - width);
    const y = Math.min(Math.max(point.y * pane.scale - height / 2, 0), pane.stage.clientHeight - height);
    const fits = width <= (right - left) * pane.scale + 8 && height <= (bottom - top) * pane.scale + 8 && x >= 0 && y >= 0;
    const isFree = taken.every(other => x >= other.right || y >= other.bottom || x + width <= other.left || y + height <= other.top);
    if (!fits || !isFree) return label.remove();
    taken.push({ left: x, top: y, right: x + width, bottom: y + height });
    label.style.left = x + "px";
    label.style.top = y + "px";
  });
}

function labelText(segment) {
  return segment.score === undefined ? segment.name : segment.name + " " + segment.score.toFixed(2);
}

// ---- Pointing at segments, and isolating one

// Return the segment index of every pane at a position on the screen, or null outside of the image.
function indicesAt(pane, event) {
  const box = pane.stage.getBoundingClientRect(), [height, width] = pane.image.size;
  const column = Math.floor((event.clientX - box.left) / box.width * width);
  const row = Math.floor((event.clientY - box.top) / box.height * height);
  if (column < 0 || row < 0 || column >= width || row >= height) return null;
  return view.panes.map(other => other.side.map[row * width + column]);
}

function paneOf(event) {
  return view.panes.find(pane => pane.stage.contains(event.target));
}

function pointAt(indices) {
  if (indices.every((index, number) => index === view.pointed[number])) return;
  view.pointed = indices;
  view.panes.forEach((pane, number) => pane.figure.hidden || drawFocus(pane, number));
}

function hover(event) {
  const pane = paneOf(event), indices = pane && indicesAt(pane, event), tip = document.getElementById("tip");
  if (!indices) return leave();
  pointAt(indices);
  tip.replaceChildren(...indices.map((index, number) => describe(view.panes[number].side, index)));
  tip.hidden = false;
  const room = { x: innerWidth - tip.offsetWidth - 8, y: innerHeight - tip.offsetHeight - 8 };
  tip.style.left = Math.max(8, Math.min(event.clientX + 14, room.x)) + "px";
  tip.style.top = (event.clientY + 18 > room.y ? event.clientY - tip.offsetHeight - 12 : event.clientY + 18) + "px";
}

function leave() {
  document.getElementById("tip").hidden = true;
  pointAt(view.panes.map(() => 0));
}

// "Prediction: person, score 0.93, matched, IoU 0.85, 1,234 pixels", with the color of the segment in front of it
function describe(side, index) {
  const segment = side.segments[index - 1], line = document.createElement("div"), title = view.panes.length > 1 ? side.title + ": " : "";
  if (segment) line.append(swatchOf(segment));
  line.append(title + (segment ? wordsOf(segment).join(", ") : "void"));
  return line;
}

function wordsOf(segment) {
  const words = [segment.name];
  if (segment.score !== undefined) words.push("score " + segment.score.toFixed(2));
  if (segment.state) words.push(segment.state);
  if (segment.iou !== undefined) words.push("IoU " + segment.iou.toFixed(2));
  words.push(segment.area.toLocaleString("en") + (segment.area === 1 ? " pixel" : " pixels"));
  return words;
}

function swatchOf(segment) {
  const swatch = document.createElement("i");
  swatch.style.background = "rgb(" + segment.color.join(" ") + ")";
  return swatch;
}

// Show only one segment and, in the other pane, the one it was matched with; a second time shows all again.
function isolateOne(number, index) {
  const segment = view.panes[number].side.segments[index - 1], indices = view.panes.map(() => 0);
  if (segment && view.isolated[number] !== index) {
    indices[number] = index;
    if (view.panes.length > 1) indices[1 - number] = segment.match ?? 0;
  }
  isolate(indices);
  paintAll();
}

function isolate(indices) {
  view.isolated = indices;
  const number = indices.findIndex(index => index > 0), side = view.panes[number]?.side;
  say(side ? "Only " + wordsOf(side.segments[indices[number] - 1]).join(", ") + ". Press Escape or click again to show all." : "");
  for (const row of viewer.querySelectorAll("tr[data-side]"))
    row.setAttribute("aria-selected", String(indices[row.dataset.side] === Number(row.dataset.index)));
}

function say(text) {
  viewer.querySelector(".status").textContent = text;
}

// ---- The list of segments

// List the segments of all sides: errors first, and the largest first.
function listSegments(sides) {
  const order = ["missed", "false positive", "matched", "crowd", "ignored"], table = viewer.querySelector(".segments table");
  const rows = sides.flatMap((side, number) => side.segments.map((segment, at) => ({ side, number, segment, index: at + 1 })));
  rows.sort((a, b) => order.indexOf(a.segment.state) - order.indexOf(b.segment.state)
    || (a.segment.iou ?? 0) - (b.segment.iou ?? 0) || b.segment.area - a.segment.area);
  const has = { side: sides.length > 1, state: rows.some(row => row.segment.state), iou: rows.some(row => row.segment.iou !== undefined),
    score: rows.some(row => row.segment.score !== undefined) };
  for (const header of table.tHead.rows[0].cells) {
    header.removeAttribute("aria-sort");
    header.hidden = has[header.dataset.column] === false;
  }
  table.tBodies[0].replaceChildren(...rows.map(row => rowOf(row, table.tHead.rows[0].cells)));
}

function rowOf({ side, number, segment, index }, headers) {
  const row = document.createElement("tr");
  row.tabIndex = 0;
  Object.assign(row.dataset, { side: number, index });
  const cells = [[SHORT[side.title] ?? side.title], [segment.name], [segment.state ?? ""], [segment.iou?.toFixed(2) ?? "–", segment.iou ?? ""],
    [segment.score?.toFixed(2) ?? "–", segment.score ?? ""], [segment.area.toLocaleString("en"), segment.area]];
  cells.forEach(([text, value], column) => {
    const cell = row.insertCell();
    cell.textContent = text;
    cell.hidden = headers[column].hidden;
    if (value === undefined) return;
    cell.className = "number";
    cell.dataset.value = value;
  });
  row.cells[1].prepend(swatchOf(segment));
  row.cells[2].dataset.state = segment.state ?? "";
  return row;
}

function pointAtRow(event) {
  const row = event.target.closest("tr[data-side]");
  if (!row) return;
  const indices = view.panes.map(() => 0), segment = view.panes[row.dataset.side].side.segments[row.dataset.index - 1];
  indices[row.dataset.side] = Number(row.dataset.index);
  if (indices.length > 1) indices[1 - row.dataset.side] = segment.match ?? 0;
  pointAt(indices);
}

// ---- Keys

// Letters toggle layers, left and right show other images, up and down go through the segments.
function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const row = event.target.closest("tr[data-side]"), isRange = event.target.matches("input[type=range]");
  const box = viewer.querySelector('[aria-keyshortcuts="' + CSS.escape(event.key.toUpperCase()) + '"]:not(:disabled)');
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key], move = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (event.key === "Escape" && view.isolated.some(index => index > 0)) {
    isolate(view.panes.map(() => 0));
    paintAll();
  } else if (event.key === "Escape") viewer.close();
  else if (box) box.click();
  else if (step && !isRange) showImage(view.position + step);
  else if (move && !isRange) moveInList(row, move);
  else if (row && event.key === "Enter") isolateOne(Number(row.dataset.side), Number(row.dataset.index));
  else return;
  event.preventDefault();
}

function moveInList(row, move) {
  const rows = [...viewer.querySelectorAll("tr[data-side]")], next = rows[row ? rows.indexOf(row) + move : move > 0 ? 0 : rows.length - 1];
  next?.focus();
}

if (viewer) {
  viewer.addEventListener("change", event => event.target.matches("[data-layer]") && showLayers());
  document.getElementById("opacity").addEventListener("input", event =>
    view.panes.forEach(pane => { pane.parts.fill.style.opacity = event.target.value / 100; }));
  viewer.addEventListener("keydown", press);
  viewer.addEventListener("close", returnFocus);
  const panes = viewer.querySelector(".panes"), table = viewer.querySelector(".segments");
  panes.addEventListener("pointermove", hover);
  panes.addEventListener("pointerdown", hover);
  panes.addEventListener("pointerleave", leave);
  panes.addEventListener("click", event => {
    const pane = paneOf(event), indices = pane && indicesAt(pane, event);
    if (indices) isolateOne(view.panes.indexOf(pane), indices[view.panes.indexOf(pane)]);
  });
  table.addEventListener("pointerover", pointAtRow);
  table.addEventListener("focusin", pointAtRow);
  table.addEventListener("pointerleave", leave);
  table.addEventListener("focusout", leave);
  table.addEventListener("click", event => {
    const row = event.target.closest("tr[data-side]");
    if (row) isolateOne(Number(row.dataset.side), Number(row.dataset.index));
  });
  viewer.addEventListener("click", event => {
    const button = event.target.closest("[data-step], [data-close]");
    if (button?.dataset.step) showImage(view.position + Number(button.dataset.step));
    else if (button) viewer.close();
  });
  addEventListener("resize", layOut);
}
