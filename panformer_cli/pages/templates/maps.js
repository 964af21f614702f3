// Maps of segment indices (0 is void): loading, decoding, boundaries, and where a label fits.
const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const VALUE_OF = new Uint8Array(128);
for (let value = 0; value < DIGITS.length; value++) VALUE_OF[DIGITS.charCodeAt(value)] = value;

// Return the segment index of every pixel. The text has index and length of each run of pixels, 5 bits a character.
function decodeMap(text, pixels) {
  const map = new Uint16Array(pixels);
  let at = 0, filled = 0;
  const next = () => {
    let value = 0, shift = 0, digit = 0;
    do {
      digit = VALUE_OF[text.charCodeAt(at++)];
      value += (digit & 31) * 2 ** shift;
      shift += 5;
    } while (digit & 32);
    return value;
  };
  while (at < text.length) {
    const index = next(), length = next();
    map.fill(index, filled, filled + length);
    filled += length;
  }
  return map;
}

// The layers of an image are in a script, because a page that is opened from disk cannot read files. A script calls
// `layersArrived`, and its load event follows before any other script runs.
let arrived = null;
const loaded = new Map(), KEPT = 8;

function layersArrived(sides) {
  arrived = sides;
}

// Return a promise of the sides of an image, each with its title, map, segments and boxes. The last ones are kept.
function loadSides(image) {
  if (!loaded.has(image.layers)) {
    loaded.set(image.layers, readScript(image.layers).then(sides => sides.map(side => withMap(side, image.size))));
    if (loaded.size > KEPT) loaded.delete(loaded.keys().next().value);
  }
  return loaded.get(image.layers);
}

function readScript(source) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = source;
    script.onload = () => resolve(arrived);
    script.onerror = () => {
      loaded.delete(source);
      reject(new Error(source + " cannot be loaded"));
    };
    document.head.append(script);
    script.remove();
  });
}

function withMap(side, [height, width]) {
  const map = decodeMap(side.map, height * width);
  return { ...side, map, boxes: boxesOf(map, width, side.segments.length) };
}

// Return [left, top, right, bottom] of every index, right and bottom exclusive; null if it has no pixels.
function boxesOf(map, width, count) {
  const boxes = new Array(count + 1).fill(null);
  for (let pixel = 0, x = 0, y = 0; pixel < map.length; pixel++) {
    const box = boxes[map[pixel]];
    if (!box) boxes[map[pixel]] = [x, y, x + 1, y + 1];
    else {
      if (x < box[0]) box[0] = x;
      if (x >= box[2]) box[2] = x + 1;
      box[3] = y + 1;
    }
    if (++x === width) { x = 0; y++; }
  }
  return boxes;
}

// Return the boundaries between pixels of different groups as a path in pixels of the image. `groups[index]` is the
// group of a segment. Steps of the pixel grid become diagonals, so that the line looks smooth at any size.
function boundaries(map, [height, width], groups, box = [0, 0, width, height]) {
  const path = new Path2D(), vertical = new Float64Array(width + 1).fill(-1), groupOf = Uint16Array.from(groups);
  const line = (x1, y1, x2, y2) => { path.moveTo(x1, y1); path.lineTo(x2, y2); };
  for (let y = box[1]; y <= box[3]; y++) {
    // The pixels around a corner are a b above and c d below it; outside of the image they are repeated.
    const above = Math.max(y - 1, 0) * width, below = Math.min(y, height - 1) * width, before = Math.max(box[0] - 1, 0);
    let a = groupOf[map[above + before]], c = groupOf[map[below + before]];
    let horizontal = -1; // where the current straight line started, here and in `vertical`
    for (let x = box[0]; x <= box[2]; x++) {
      const column = x < width ? x : width - 1, b = groupOf[map[above + column]], d = groupOf[map[below + column]];
      const up = a !== b, down = c !== d, left = a !== c, right = b !== d, edges = up + down + left + right;
      const isRow = edges === 2 && left && right, isColumn = edges === 2 && up && down;
      if (isRow && horizontal < 0) horizontal = x;
      if (!isRow && horizontal >= 0) { line(horizontal - 0.5, y, x - 0.5, y); horizontal = -1; }
      if (isColumn && vertical[x] < 0) vertical[x] = y;
      if (!isColumn && vertical[x] >= 0) { line(x, vertical[x] - 0.5, x, y - 0.5); vertical[x] = -1; }
      if (edges === 2 && !isRow && !isColumn) line(x + (right - left) / 2, y, x, y + (down - up) / 2);
      else if (edges > 2) {
        if (up || down) line(x, y - up / 2, x, y + down / 2);
        if (left || right) line(x - left / 2, y, x + right / 2, y);
      }
      a = b;
      c = d;
    }
    if (horizontal >= 0) line(horizontal - 0.5, y, box[2] + 0.5, y);
  }
  vertical.forEach((start, x) => start >= 0 && line(x, start - 0.5, x, box[3] + 0.5));
  return path;
}

// Return the pixel of every segment that is farthest from its boundary, as {x, y} by index; some may be missing. The
// distance is the 3-4 chamfer distance on a map of at most 320 pixels a side.
function labelPoints(map, [height, width]) {
  const step = Math.ceil(Math.max(height, width) / 320), rows = Math.ceil(height / step), columns = Math.ceil(width / step);
  const small = new Uint16Array(rows * columns), distance = new Uint16Array(rows * columns), points = [];
  for (let y = 0; y < rows; y++)
    for (let x = 0; x < columns; x++)
      small[y * columns + x] = map[Math.min(y * step + (step >> 1), height - 1) * width + Math.min(x * step + (step >> 1), width - 1)];
  const near = (x, y, index, cost) =>
    x < 0 || y < 0 || x >= columns || y >= rows || small[y * columns + x] !== index ? cost : distance[y * columns + x] + cost;
  const visit = (x, y, side) => { // side -1: the neighbors above and to the left, 1: those below and to the right
    const at = y * columns + x, index = small[at];
    const nearest = Math.min(near(x + side, y, index, 3), near(x, y + side, index, 3), near(x - 1, y + side, index, 4),
      near(x + 1, y + side, index, 4));
    distance[at] = side < 0 ? nearest : Math.min(distance[at], nearest);
    if (side > 0 && !(points[index]?.distance >= distance[at]))
      points[index] = { x: (x + 0.5) * step, y: (y + 0.5) * step, distance: distance[at] };
  };
  for (let y = 0; y < rows; y++) for (let x = 0; x < columns; x++) visit(x, y, -1);
  for (let y = rows - 1; y >= 0; y--) for (let x = columns - 1; x >= 0; x--) visit(x, y, 1);
  return points;
}
