// The field of view of each plane: live, the day's reference, both, or live over day 1's; ROIs over it, P+ solid and up, P- dashed and down.
const LIVE = 0, REFERENCE = 1, DAY1 = 2, SHARP = 2, OLD_MS = 3000;
const PLUS = "#e69f00", MINUS = "#56b4e9", OTHER = "#c3cad1";
const NAMES = ["proximal trunk", "distal trunk"];
const place = document.getElementById("planes");
const planes = new Map();
let rois = null, plus = [], minus = [], picked = new Set(), pick = null;

function planeOf(number) {
  if (planes.has(number)) return planes.get(number);
  const figure = document.createElement("figure");
  figure.className = "plane";
  const stack = document.createElement("div");
  stack.className = "stack";
  const base = document.createElement("canvas"), over = document.createElement("canvas");
  base.width = over.width = 796; base.height = over.height = 512;
  base.setAttribute("role", "img");
  base.setAttribute("aria-label", `plane ${number}`);
  stack.append(base, over);
  const caption = document.createElement("figcaption");
  caption.textContent = `plane ${number}, ${NAMES[number] ?? ""}: no picture yet`;
  figure.append(stack, caption);
  place.append(figure);
  if (number === 0) over.addEventListener("click", clicked);
  const plane = {number, base, over, caption, figure, bitmaps: [null, null, null], seen: 0, tinted: document.createElement("canvas")};
  planes.set(number, plane);
  [...planes.values()].sort((a, b) => a.number - b.number).forEach((p) => place.append(p.figure));
  return plane;
}

function view() { return document.querySelector("input[name=view]:checked").value; }

function tint(plane, bitmap, colour) {
  const {tinted} = plane, ctx = tinted.getContext("2d");
  tinted.width = bitmap.width; tinted.height = bitmap.height;
  ctx.drawImage(bitmap, 0, 0);
  ctx.globalCompositeOperation = "multiply";
  ctx.fillStyle = colour;
  ctx.fillRect(0, 0, tinted.width, tinted.height);
  return tinted;
}

function paint(plane) {
  const [live, reference, day1] = plane.bitmaps, wanted = view();
  const under = wanted === "day1" ? day1 : reference, now = live ?? (wanted === "day1" ? reference : null);
  const shown = wanted === "reference" ? [[reference, null]] : wanted === "live" ? [[live, null]] : [[now, "#0f0"], [under, "#f0f"]];
  const ctx = plane.base.getContext("2d"), first = shown.map(([b]) => b).find((b) => b);
  if (first && (plane.base.width !== first.width || plane.base.height !== first.height)) {
    plane.base.width = first.width; plane.base.height = first.height;
  }
  ctx.globalCompositeOperation = "source-over";
  ctx.fillStyle = "#000";
  ctx.fillRect(0, 0, plane.base.width, plane.base.height);
  ctx.globalCompositeOperation = "lighter";
  for (const [bitmap, colour] of shown) if (bitmap) ctx.drawImage(colour ? tint(plane, bitmap, colour) : bitmap, 0, 0);
}

export async function picture(kind, number, blob) {
  const plane = planeOf(number), bitmap = await createImageBitmap(blob);
  plane.bitmaps[kind]?.close();
  plane.bitmaps[kind] = bitmap;
  if (kind === LIVE) plane.seen = performance.now();
  const wanted = view();
  if (!["live", "reference"].includes(wanted) || (wanted === "live") === (kind === LIVE)) paint(plane);
}

function outline(ctx, edges, colour, width, dashed) {
  ctx.strokeStyle = colour; ctx.lineWidth = width;
  ctx.beginPath();
  for (let k = 0; k < edges.length; k += 4) {
    if (dashed && (edges[k] + edges[k + 1]) % 4 < 2) continue;
    ctx.moveTo(edges[k + 1] * SHARP, edges[k] * SHARP);
    ctx.lineTo(edges[k + 3] * SHARP, edges[k + 2] * SHARP);
  }
  ctx.stroke();
}

function mark(ctx, roi, text, colour, up, scale) {  // beside the ROI, so that its outline is seen; within the picture
  const [top, bottom, left, right] = extent(roi), s = 4.5 * scale, gap = 3 * scale;
  ctx.font = `700 ${13 * scale}px system-ui`;
  const width = 3 * s + ctx.measureText(text).width, fits = right * SHARP + gap + width < ctx.canvas.width;
  const x = (fits ? right * SHARP + gap : left * SHARP - gap - width) + s, y = (top + bottom) / 2 * SHARP;
  ctx.fillStyle = colour; ctx.strokeStyle = "#000"; ctx.lineWidth = 3 * scale;
  ctx.beginPath();
  ctx.moveTo(x - s, y + (up ? s : -s)); ctx.lineTo(x + s, y + (up ? s : -s)); ctx.lineTo(x, y + (up ? -s : s)); ctx.closePath();
  ctx.stroke(); ctx.fill();
  ctx.strokeText(text, x + 1.4 * s, y + s); ctx.fillText(text, x + 1.4 * s, y + s);
}

function extent({edges}) {
  let top = Infinity, bottom = -Infinity, left = Infinity, right = -Infinity;
  for (let k = 0; k < edges.length; k += 2) {
    top = Math.min(top, edges[k]); bottom = Math.max(bottom, edges[k]);
    left = Math.min(left, edges[k + 1]); right = Math.max(right, edges[k + 1]);
  }
  return [top, bottom, left, right];
}

function box(ctx, roi, scale) {  // picked: a dotted square with its number
  const x = roi.col * SHARP, y = roi.row * SHARP, s = 12 * scale;
  ctx.strokeStyle = ctx.fillStyle = "#fff"; ctx.lineWidth = 2 * scale;
  ctx.setLineDash([3 * scale, 3 * scale]);
  ctx.strokeRect(x - s, y - s, 2 * s, 2 * s);
  ctx.setLineDash([]);
  ctx.font = `700 ${13 * scale}px system-ui`;
  ctx.fillText(String(roi.index), x - s, y - 1.2 * s);
}

function clicked(event) {
  const found = rois?.planes.find((p) => p.plane === 0)?.rois ?? [];
  if (!pick || !found.length) return;
  const size = event.target.getBoundingClientRect();
  const x = (event.clientX - size.left) / size.width * rois.width, y = (event.clientY - size.top) / size.height * rois.height;
  const away = (roi) => Math.hypot(roi.col - x, roi.row - y);
  const nearest = found.reduce((a, b) => away(b) < away(a) ? b : a);
  if (away(nearest) < 15 * rois.width / size.width) pick(nearest.index);
}

export function picking(indices, toggle) {
  picked = new Set(indices); pick = toggle;
  planes.get(0)?.over.classList.toggle("pickable", pick !== null);
  drawRois();
}

function drawRois() {
  if (!rois) return;
  for (const {plane: number, rois: found} of rois.planes) {
    const plane = planeOf(number), {over} = plane, ctx = over.getContext("2d");
    over.width = rois.width * SHARP; over.height = rois.height * SHARP;
    const scale = over.width / (over.clientWidth || 400);  // canvas pixels in one of the screen
    for (const roi of found) {
      const chosen = number === 0, isPlus = chosen && plus.includes(roi.index), isMinus = chosen && minus.includes(roi.index);
      outline(ctx, roi.edges, isPlus ? PLUS : isMinus ? MINUS : OTHER, (isPlus || isMinus ? 2.2 : 1.4) * scale, isMinus);
      if (chosen && picked.has(roi.index)) box(ctx, roi, scale);
      if (isPlus) mark(ctx, roi, `+${roi.index}`, PLUS, true, scale);
      if (isMinus) mark(ctx, roi, `−${roi.index}`, MINUS, false, scale);
    }
  }
}

export function outlines(value) { rois = value; drawRois(); }

export function select(newPlus, newMinus) { plus = newPlus; minus = newMinus; drawRois(); }

const digits = (value, n) => value === null ? "–" : value.toFixed(n);  // what is not finite comes as null

export function captions(list) {
  for (const p of list) planeOf(p.plane);
  for (const plane of planes.values()) {
    const p = list.find((one) => one.plane === plane.number), name = `plane ${plane.number}, ${NAMES[plane.number] ?? ""}`;
    const old = performance.now() - plane.seen > OLD_MS;
    const picture = plane.bitmaps[LIVE] ? old ? " ✖ the live picture is old" : "" : ": no live picture yet";
    const state = p ? `: quality ${digits(p.quality, 2)}, shift ${digits(p.shift_y_px, 1)}, ${digits(p.shift_x_px, 1)} px${p.valid ? "" : " ✖ not valid: nothing is decided from it"}` : ": no frames";
    plane.caption.textContent = `${name}${state}${picture}`;
    plane.figure.classList.toggle("old", old);
  }
}

document.getElementById("large").addEventListener("change", (event) => place.classList.toggle("stacked", event.target.checked));
for (const choice of document.querySelectorAll("input[name=view]")) {
  choice.addEventListener("change", () => planes.forEach(paint));
}
new ResizeObserver(drawRois).observe(place);
