// The bar of a recording: go to a moment, play, from trial to trial. Without a recording there is none.
import {post} from "./ask.js";

const at = (id) => document.getElementById(id);
let marks = [], moment = {t_s: 0, end_s: 0, playing: false, speed: 1}, held = false;

const clock = (s) => `${Math.floor(s / 60)}:${(s % 60).toFixed(1).padStart(4, "0")}`;
const move = (what) => post("/player", what);

export function recording(value) {
  marks = value.marks;
  document.body.dataset.recording = "yes";
  at("recording").hidden = at("player").hidden = false;
  at("recording-run").textContent = value.run;
  at("marks").replaceChildren(...marks.map((m) => { const o = document.createElement("option"); o.value = m.t_s; o.label = m.text; return o; }));
  at("speed-choice").replaceChildren(...value.speeds.map((s) => { const o = document.createElement("option"); o.value = s; o.textContent = `${s}×`; return o; }));
  document.querySelector("input[name=view][value=reference]").click();
}

export function show(value) {
  moment = value;
  const bar = at("moment");
  bar.max = value.end_s;
  if (!held) bar.value = value.t_s;
  const last = marks.findLast((m) => m.t_s <= value.t_s);
  at("moment-words").textContent = `${clock(value.t_s)} of ${clock(value.end_s)}${last ? `, after ${last.text}` : ""}`;
  bar.setAttribute("aria-valuetext", at("moment-words").textContent);
  at("play").textContent = value.playing ? "❚❚ pause" : "▶ play";
  if (document.activeElement !== at("speed-choice")) at("speed-choice").value = value.speed;
}

at("moment").addEventListener("pointerdown", () => { held = true; });
addEventListener("pointerup", () => { held = false; });
at("moment").addEventListener("input", () => move({t_s: Number(at("moment").value)}));
at("play").addEventListener("click", () => move({playing: !moment.playing, ...(moment.t_s >= moment.end_s ? {t_s: 0} : {})}));
at("speed-choice").addEventListener("change", () => move({speed: Number(at("speed-choice").value)}));
at("mark-before").addEventListener("click", () => move({t_s: marks.findLast((m) => m.t_s < moment.t_s - 0.5)?.t_s ?? 0}));
at("mark-next").addEventListener("click", () => move({t_s: marks.find((m) => m.t_s > moment.t_s + 0.01)?.t_s ?? moment.end_s}));
