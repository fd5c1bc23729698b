// Day 1: ranks a run's ROIs, lets them be picked in the table or in the picture, and has P+ and P- drawn of them.
import {post, say} from "./ask.js";
import * as images from "./images.js";

const USUAL = [8, 10];
const at = (id) => document.getElementById(id);
const picked = new Set();
let ranked = null;

export function runs(names) {
  const choice = at("run-choice"), before = choice.value;
  choice.replaceChildren(...names.map((name) => { const o = document.createElement("option"); o.value = o.textContent = name; return o; }));
  if (names.includes(before)) choice.value = before;
}

export function candidates(value) {
  ranked = value;
  picked.clear();
  at("rank-words").textContent = `${value.run}, the best first. Tick ROIs here, or click them in plane 0. ${value.note}`;
  at("candidates").tBodies[0].replaceChildren(...value.rows.map((c) => {
    const row = document.createElement("tr"), label = document.createElement("label"), box = document.createElement("input");
    box.type = "checkbox"; box.dataset.roi = c.roi;
    box.addEventListener("change", () => toggle(c.roi));
    label.append(box, ` ${c.roi}`);
    const cells = [label, c.rate_hz.toFixed(3), c.snr.toFixed(1), c.drift?.toFixed(2) ?? "∞"];
    row.append(...cells.map((cell) => { const td = document.createElement("td"); td.append(cell); return td; }));
    return row;
  }));
  show();
}

function toggle(roi) {
  if (!ranked?.rows.some((c) => c.roi === roi)) return;
  if (!picked.delete(roi)) picked.add(roi);
  show();
}

function show() {
  for (const box of document.querySelectorAll("[data-roi]")) box.checked = picked.has(Number(box.dataset.roi));
  const list = [...picked].sort((a, b) => a - b);
  const usual = USUAL.includes(list.length) ? "" : " (the paper: 8 or 10)";
  at("picked").textContent = list.length ? `${list.length} picked${usual}: ${list.join(", ")}` : `none picked${usual}`;
  images.picking(list, toggle);
}

export function drawn(value) { at("drawn").textContent = `✓ ${value.words}. Session “${value.session}”, ${value.path}`; }

async function busy(button, path, body) {
  button.disabled = true;
  say(true, "at work ...");
  const answer = await post(path, body);
  button.disabled = false;
  say(answer.accepted, `${button.textContent} ${answer.accepted ? "done" : "refused"}${answer.reason ? `: ${answer.reason}` : ""}`);
}

at("rank").addEventListener("click", () => busy(at("rank"), "/candidates", {run: at("run-choice").value}));
at("draw").addEventListener("click", () => {
  const by = at("who").value.trim();
  if (!by) { at("who").focus(); say(false, "who confirms? Say it above: it goes on the record"); return; }
  if (!ranked || !picked.size) { say(false, "rank a run's ROIs first, and pick some"); return; }
  const names = [...at("session").options].map((o) => o.value), session = at("session").value;
  busy(at("draw"), "/draw", {run: ranked.run, session: session.startsWith("day 1 of ") ? names[0] : session, rois: [...picked].sort((a, b) => a - b), by});
});
