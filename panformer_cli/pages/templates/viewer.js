// The viewer: layers over a photo, drawn from maps of segment indices, because scripts cannot read file:// images.
const viewer = document.getElementById("viewer");
const images = JSON.parse(document.getElementById("layers").textContent);
const SIDES = { truth: "Ground truth", prediction: "Prediction" };
const ERRORS = { missed: [45, 125, 255], false: [255, 92, 20], both: [214, 40, 190], edge: [255, 214, 0] };
let shown = -1, maps = null, pointed = "";

// Return the segment index of every pixel, decoded from [index, length, ...].
function decodeRuns(runs, pixels) {
  const map = new Uint16Array(pixels);
  for (let i = 0, at = 0; i < runs.length; i += 2) {
    map.fill(runs[i], at, at + runs[i + 1]);
    at += runs[i + 1];
  }
  return map;
}

function part(name) {
  return viewer.querySelector('[data-part="' + name + '"]');
}

function paint(name, colorOf) {
  const image = images[shown], [height, width] = image.size, canvas = part(name);
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d"), pixels = context.createImageData(width, height);
  const words = new Uint32Array(pixels.data.buffer);
  for (let pixel = 0; pixel < words.length; pixel++) words[pixel] = colorOf(pixel);
  context.putImageData(pixels, 0, 0);
}

function opaque([red, green, blue]) {
  return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

// Paint one side in the colors of its segments, with white borders; void is transparent.
function paintSide(side) {
  const map = maps[side], width = images[shown].size[1], white = opaque([255, 255, 255]);
  const colors = [0, ...images[shown][side].segments.map(segment => opaque(segment.color))];
  paint(side, pixel => {
    const index = map[pixel], last = pixel % width === width - 1;
    if ((!last && map[pixel + 1] !== index) || (map[pixel + width] ?? index) !== index) return white;
    return colors[index];
  });
}

// Return the kind of error for a pair of segment indices, "" for none.
function errorAt(image, truthIndex, predictionIndex) {
  const truth = image.truth.segments[truthIndex - 1], prediction = image.prediction.segments[predictionIndex - 1];
  const missed = truth?.state === "missed", wrong = prediction?.state === "false positive";
  if (missed && wrong) return "both";
  if (missed) return "missed";
  if (wrong) return "false";
  const missing = truth?.state === "matched" && truth.match !== predictionIndex;
  const extra = truth && prediction?.state === "matched" && prediction.match !== truthIndex;
  return missing || extra ? "edge" : "";
}

function paintErrors() {
  const image = images[shown], { truth, prediction } = maps, step = image.prediction.segments.length + 1;
  const colors = [];
  for (let t = 0; t <= image.truth.segments.length; t++)
    for (let p = 0; p < step; p++) {
      const error = errorAt(image, t, p);
      colors.push(error ? opaque(ERRORS[error]) : 0);
    }
  paint("errors", pixel => colors[truth[pixel] * step + prediction[pixel]]);
}

// Outline one segment of each side (index 0: none) in white or in black and white, visible on any background.
function paintOutline(indices) {
  const width = images[shown].size[1], white = opaque([255, 255, 255]), black = opaque([0, 0, 0]);
  const reach = Math.max(1, Math.round(width / 400));
  const inside = (side, pixel) => maps[side][pixel] === indices[side];
  paint("outline", pixel => {
    for (const side of Object.keys(SIDES)) {
      if (!indices[side] || !inside(side, pixel)) continue;
      const column = pixel % width;
      const edge = column < reach || column >= width - reach || !inside(side, pixel - reach) || !inside(side, pixel + reach)
        || !inside(side, pixel - reach * width) || !inside(side, pixel + reach * width);
      if (edge) return side === "truth" || (pixel + Math.floor(pixel / width)) % 8 < 4 ? white : black;
    }
    return 0;
  });
}

function show(index) {
  shown = (index + images.length) % images.length;
  const image = images[shown], [height, width] = image.size, stage = viewer.querySelector(".stage");
  maps = {};
  for (const side of Object.keys(SIDES)) maps[side] = decodeRuns(image[side].runs, height * width);
  stage.style.aspectRatio = width + " / " + height;
  stage.style.maxWidth = "calc(72vh * " + width / height + ")";
  document.getElementById("shown").replaceChildren(image.name, small(image.summary));
  if (image.photo) part("photo").src = image.photo;
  else part("photo").removeAttribute("src");
  Object.keys(SIDES).forEach(paintSide);
  paintErrors();
  pointAt({ truth: 0, prediction: 0 });
  listSegments(image);
  for (const button of viewer.querySelectorAll("[data-image]"))
    button.setAttribute("aria-pressed", String(Number(button.dataset.image) === shown));
  showLayers();
}

function small(text) {
  const element = document.createElement("small");
  element.textContent = text;
  return element;
}

function showLayers() {
  for (const box of viewer.querySelectorAll("[data-layer]")) {
    const layer = part(box.dataset.layer);
    layer.hidden = !box.checked || (box.dataset.layer === "photo" && !images[shown].photo);
    if (layer.dataset.part !== "photo") layer.style.opacity = document.getElementById("opacity").value / 100;
  }
  viewer.querySelector(".legend").hidden = part("errors").hidden;
}

function pointAt(indices) {
  const key = indices.truth + " " + indices.prediction;
  if (key === pointed) return;
  pointed = key;
  paintOutline(indices);
}

// "person, missed, 1,234 pixels"
function describe(side, index) {
  const segment = images[shown][side].segments[index - 1];
  if (!segment) return SIDES[side] + ": void";
  const words = [segment.name];
  if (typeof segment.score === "number") words.push("score " + segment.score.toFixed(2));
  words.push(segment.state === "matched" ? "matched, IoU " + segment.iou.toFixed(2) : segment.state);
  words.push(segment.area.toLocaleString("en") + " pixels");
  return SIDES[side] + ": " + words.join(", ");
}

function hover(event) {
  const stage = viewer.querySelector(".stage"), box = stage.getBoundingClientRect(), [height, width] = images[shown].size;
  const column = Math.floor((event.clientX - box.left) / box.width * width);
  const row = Math.floor((event.clientY - box.top) / box.height * height);
  if (column < 0 || row < 0 || column >= width || row >= height) return leave();
  const pixel = row * width + column, indices = {}, tip = document.getElementById("tip");
  tip.replaceChildren();
  for (const side of Object.keys(SIDES)) {
    indices[side] = maps[side][pixel];
    const line = document.createElement("div");
    line.textContent = describe(side, indices[side]);
    tip.append(line);
  }
  pointAt(indices);
  tip.hidden = false;
  const room = document.documentElement.clientWidth - tip.offsetWidth - 12;
  tip.style.left = Math.max(8, Math.min(event.clientX + 14, room)) + "px";
  tip.style.top = event.clientY + 18 + "px";
}

function leave() {
  document.getElementById("tip").hidden = true;
  pointAt({ truth: 0, prediction: 0 });
}

function addCell(row, text, value) {
  const cell = row.insertCell();
  cell.textContent = text;
  if (value !== undefined) {
    cell.className = "number";
    cell.dataset.value = value;
  }
  return cell;
}

// List the segments of both sides in the table, errors first.
function listSegments(image) {
  const order = ["missed", "false positive", "matched", "crowd", "ignored"], table = viewer.querySelector(".segments table");
  const rows = Object.keys(SIDES).flatMap(side =>
    image[side].segments.map((segment, index) => ({ side, segment, index: index + 1 })));
  rows.sort((a, b) => order.indexOf(a.segment.state) - order.indexOf(b.segment.state)
    || (a.segment.iou ?? 0) - (b.segment.iou ?? 0) || b.segment.area - a.segment.area);
  table.tBodies[0].replaceChildren();
  for (const header of table.tHead.rows[0].cells) header.removeAttribute("aria-sort");
  for (const { side, segment, index } of rows) {
    const row = table.tBodies[0].insertRow();
    row.tabIndex = row.rowIndex === 1 ? 0 : -1; // the Tab key reaches only the first row; arrow keys reach the others
    Object.assign(row.dataset, { side, index });
    addCell(row, SIDES[side]);
    const swatch = document.createElement("i");
    swatch.style.background = "rgb(" + segment.color.join(" ") + ")";
    addCell(row, segment.name).prepend(swatch);
    addCell(row, segment.state).dataset.state = segment.state;
    addCell(row, segment.iou === undefined ? "–" : segment.iou.toFixed(2), segment.iou ?? "");
    addCell(row, typeof segment.score === "number" ? segment.score.toFixed(2) : "–", segment.score ?? "");
    addCell(row, segment.area.toLocaleString("en"), segment.area);
  }
}

function outlineRow(event) {
  const row = event.target.closest("tr[data-side]");
  if (row) pointAt({ truth: 0, prediction: 0, [row.dataset.side]: Number(row.dataset.index) });
}

// Letters toggle layers and arrow keys show other images, unless another element has the focus.
function press(event) {
  const inViewer = viewer.contains(event.target), idle = event.target === document.body;
  if (event.ctrlKey || event.metaKey || event.altKey || !(inViewer || idle)) return;
  const box = viewer.querySelector('[aria-keyshortcuts="' + CSS.escape(event.key.toUpperCase()) + '"]');
  if (box) box.click();
  const row = event.target.closest("tr[data-side]");
  const next = row && { ArrowDown: row.nextElementSibling, ArrowUp: row.previousElementSibling }[event.key];
  if (next) {
    event.preventDefault();
    next.focus();
  }
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (step && inViewer && !event.target.matches("input") && !event.target.closest(".wide")) {
    event.preventDefault();
    show(shown + step);
  }
}

if (viewer) {
  viewer.addEventListener("change", event => event.target.matches("[data-layer]") && showLayers());
  document.getElementById("opacity").addEventListener("input", showLayers);
  const stage = viewer.querySelector(".stage"), table = viewer.querySelector(".segments");
  stage.addEventListener("pointermove", hover);
  stage.addEventListener("pointerdown", hover);
  stage.addEventListener("pointerleave", leave);
  table.addEventListener("pointerover", outlineRow);
  table.addEventListener("focusin", outlineRow);
  table.addEventListener("pointerleave", leave);
  table.addEventListener("focusout", leave);
  document.addEventListener("keydown", press);
  document.addEventListener("click", event => {
    const button = event.target.closest("[data-image], [data-show]");
    if (!button) return;
    show(Number(button.dataset.image ?? button.dataset.show));
    if (button.dataset.show) viewer.closest("section").scrollIntoView();
  });
  show(0);
}
