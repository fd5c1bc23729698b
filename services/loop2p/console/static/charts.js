// The traces, by uPlot: rows as the console numbers them, the newest minute of frame time.
const WINDOW_S = 60;
const EVERY_MS = 120;
const INK = "#a3acb6", GRID = {stroke: "#2a3036", width: 1};
const PLUS = "#e69f00", MINUS = "#56b4e9", GOOD = "#2fc797", GROUND = "#181b1f", WHITE = "#e4e7ea", PINK = "#cc79a7";

export const levels = {threshold: null, minimum: null};

function axis(label) {
  return {stroke: INK, grid: GRID, ticks: GRID, label, labelSize: 18, size: 48, labelFont: "12px system-ui", font: "11px system-ui"};
}

function lines(u) {
  const {ctx, bbox} = u;
  for (const [name, value, dash] of [["threshold", levels.threshold, [8, 4]], ["minimum", levels.minimum, [2, 4]]]) {
    if (value === null) continue;
    const y = u.valToPos(value, "y", true);
    if (y < bbox.top || y > bbox.top + bbox.height) continue;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = GOOD;
    ctx.textAlign = "left";
    ctx.textBaseline = "bottom";
    ctx.setLineDash(dash);
    ctx.lineWidth = 1.5 * devicePixelRatio;
    ctx.beginPath(); ctx.moveTo(bbox.left, y); ctx.lineTo(bbox.left + bbox.width, y); ctx.stroke();
    ctx.font = `${11 * devicePixelRatio}px system-ui`;
    const text = `${name} ${value.toFixed(3)}`, high = 13 * devicePixelRatio;
    ctx.fillStyle = GROUND;  // the traces would make it hard to read
    ctx.fillRect(bbox.left + 2, y - high - 3, ctx.measureText(text).width + 4, high);
    ctx.fillStyle = GOOD;
    ctx.fillText(text, bbox.left + 4, y - 3);
    ctx.restore();
  }
}

function lickTicks(u) {  // a tick at the bottom for each row with a lick in it
  const {ctx, bbox} = u, bottom = bbox.top + bbox.height, height = 12 * devicePixelRatio;
  ctx.save();
  ctx.strokeStyle = PLUS;
  ctx.lineWidth = 1.5 * devicePixelRatio;
  ctx.beginPath();
  (columns.licks ?? []).forEach((n, k) => {
    if (!n) return;
    const x = u.valToPos(columns.t_s[k], "x", true);
    ctx.moveTo(x, bottom); ctx.lineTo(x, bottom - height);
  });
  ctx.stroke();
  ctx.restore();
}

function range(u, low, high) {
  if (low === null) return [-0.1, 0.1];
  const values = u.isControl ? [low, high, ...[levels.threshold, levels.minimum].filter((v) => v !== null)] : [low, high];
  const a = Math.min(...values), b = Math.max(...values), pad = Math.max((b - a) * 0.08, 0.005);
  return [a - pad, b + pad];
}

const columns = {};

const CHARTS = [
  ["chart-control", "control value", [["control value", "value", WHITE, 2], ["D", "d", "#7d8791", 1]], [lines]],
  ["chart-dff", "mean dF/F", [["P+ (solid)", "plus", PLUS, 2], ["P− (dashed)", "minus", MINUS, 2, [6, 4]]]],
  ["chart-motion", "shift, px", [["rows", "shift_y_px", WHITE, 1.5], ["columns (dashed)", "shift_x_px", PINK, 1.5, [6, 4]]]],
  ["chart-body", "cm/s", [["running", "speed_cm_s", WHITE, 1.5], ["licks (ticks below)", null, PLUS, 1]], [lickTicks]],
];

let names = null, epoch = null, next = 0, drawn = 0, waiting = false;
const charts = CHARTS.map(([id, label, series, draw = []]) => {
  const place = document.getElementById(id);
  const chart = new uPlot({
    width: place.clientWidth, height: 136, cursor: {show: false}, legend: {live: false},
    scales: {x: {time: false}, y: {range}},
    axes: [{stroke: INK, grid: GRID, ticks: GRID, size: 30, gap: 4, font: "11px system-ui", values: (u, v) => v.map((x) => `${x} s`)}, axis(label)],
    series: [{}, ...series.map(([name, , stroke, width, dash]) => ({label: name, stroke, width, dash, points: {show: false}, spanGaps: false}))],
    hooks: {draw},
  }, [[], ...series.map(() => [])], place);
  chart.isControl = id === "chart-control";
  new ResizeObserver(() => chart.setSize({width: place.clientWidth, height: 136})).observe(place);
  return [chart, series.map(([, column]) => column)];
});

export function restart() { next = 0; names = null; }

export function add(message) {
  if (names === null || message.epoch !== epoch || message.first > next) {  // a new count of frames, or rows were left out
    names = message.columns; epoch = message.epoch;
    for (const name of names) columns[name] = [];
  }
  next = message.first + message.rows.length;
  for (const row of message.rows) names.forEach((name, k) => columns[name].push(row[k]));
  const t = columns.t_s, from = t.findIndex((x) => x >= t[t.length - 1] - WINDOW_S);
  if (from > 0) for (const name of names) columns[name].splice(0, from);
  if (!waiting) { waiting = true; setTimeout(() => requestAnimationFrame(draw), Math.max(0, drawn + EVERY_MS - performance.now())); }
}

function draw() {
  waiting = false; drawn = performance.now();
  for (const [chart, wanted] of charts) chart.setData([columns.t_s, ...wanted.map((name) => columns[name] ?? columns.t_s.map(() => null))]);
}
