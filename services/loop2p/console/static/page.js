// The page: puts what the console sends where it belongs. All text goes in as text, never as HTML.
import {ask, post, say} from "./ask.js";
import * as charts from "./charts.js";
import * as day1 from "./day1.js";
import * as images from "./images.js";
import {live} from "./live.js";
import * as player from "./player.js";

const STATES = {
  running: ["▶", "running"], preparing: ["…", "preparing"], paused: ["❚❚", "paused"], idle: ["○", "idle"],
  ended: ["■", "ended"], unknown: ["✖", "task silent"],
};
const OUTCOMES = {start: "… runs", hit: "✓ hit", miss: "✗ miss", void: "∅ void"};
const at = (id) => document.getElementById(id);
const overrides = new Set();

function node(tag, text = "", className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

// Parts are made anew only when they change, so that focus and what is being read stay where they are.
const before = new Map();
function part(id, value, make) {
  const text = JSON.stringify(value);
  if (before.get(id) === text) return;
  before.set(id, text);
  make(at(id));
}

function rows(id, value, make) {
  part(id, value, (table) => {
    table.tBodies[0].replaceChildren(...value.map((one) => {
      const row = document.createElement("tr");
      row.append(...make(one).map((cell) => {
        if (cell instanceof Node) { const td = document.createElement("td"); td.append(cell); return td; }
        return node("td", cell);
      }));
      return row;
    }));
  });
}

const clock = (unix) => new Date(unix * 1000).toTimeString().slice(0, 8);
const number = (value, digits) => value === null || value === undefined ? "–" : value.toFixed(digits);

function facts(value) {
  const before = at("session").value;
  at("session").replaceChildren(...value.sessions.map((name) => { const o = node("option", name); o.value = name; return o; }));
  if (value.sessions.includes(before)) at("session").value = before;
  at("stop-command").textContent = `loop2p stop ${value.rig_path}`;
  at("logout").hidden = !value.logged_in;
}

function page(p) {
  const [symbol, word] = STATES[p.state];
  if (document.body.dataset.state === "preparing" && p.state === "idle") say(false, `start refused: ${p.reason}`);
  document.body.dataset.state = p.state;
  at("symbol").textContent = symbol;
  at("word").textContent = word;
  document.title = `${symbol} ${word} · ${p.rig}`;
  at("phase").textContent = [p.phase.replace("_", " "), p.reason].filter(Boolean).join(": ");
  at("phase").className = p.reason.length > 120 ? "long" : "";
  at("run").textContent = `${p.rig}${p.day ? `, day ${p.day}` : ""}${p.run_id ? `, run ${p.run_id}` : ", no run yet"}${p.elapsed_s ? `, ${p.elapsed_s.toFixed(0)} s of closed loop` : ""}`;
  at("display").hidden = p.display !== false;
  at("renderer").textContent = p.renderer ? `(${p.renderer})` : "";
  at("simulated").hidden = !p.simulated;
  services(p);
  alarms(p.alarms, p.faults);
  mouse(p);
  rows("trials", p.trials, (t) => [String(t.trial), OUTCOMES[t.edge], t.end_s === null ? "" : (t.end_s - t.t_s).toFixed(1), t.reason]);
  at("outcomes").textContent = `✓ hits ${p.outcomes.hit} · ✗ misses ${p.outcomes.miss} · ∅ void ${p.outcomes.void}`;
  latency(p);
  part("events", p.events, (list) => list.replaceChildren(...p.events.map((e) => {
    const item = node("li");
    item.append(node("time", clock(e.time)), node("span", `${e.kind === "refused" || e.kind === "fault" ? "✖ " : ""}${e.text}`));
    return item;
  })));
  images.captions(p.planes);
  part("rois-line", [p.plus, p.minus, p.match_to_day1, p.day1, p.set_id, p.confirmed_by], (line) => {
    images.select(p.plus, p.minus);
    const chosen = p.plus.length ? `P+ ▲ ${p.plus.join(", ")} (solid) · P− ▼ ${p.minus.join(", ")} (dashed), confirmed by ${p.confirmed_by || "–"} · ` : "no P+ and P− yet: they come with a session · ";
    const match = p.match_to_day1 === null ? "day 1, or no day-1 image named" : `match to day 1: ${p.match_to_day1.toFixed(2)}${where(p.day1)}`;
    const over = p.day1.length ? "Both, and over day 1: live green, reference or day 1 magenta, equal white." : "Both: live green, reference magenta, equal white.";
    line.textContent = `${chosen}ROI set ${p.set_id || "–"} · ${match}. ${over}`;
    at("day1-choice").hidden = !p.day1.length;
    if (!p.day1.length && at("day1-choice").control.checked) document.querySelector("input[name=view][value=live]").click();
  });
  charts.levels.threshold = p.threshold;
  charts.levels.minimum = p.minimum;
}

function where(day1) {  // today's field against day 1's
  const one = (d) => `plane ${d.plane} ${number(d.match, 2)}, moved ${number(d.offset_y_px, 1)}, ${number(d.offset_x_px, 1)} px, turned ${number(d.rotation_deg, 1)}°`;
  return day1.length ? ` (${day1.map(one).join("; ")})` : "";
}

function services(p) {
  rows("services", p.services, (s) => {
    const good = s.health === "ready";
    const bound = s.bound_ms === null ? "–" : `${s.bound_ms.toFixed(3)}${s.bound_ok === false ? " ✖" : s.bound_ok ? " ✓" : ""}`;
    return [s.name, s.host + (s.address ? ` ${s.address}` : ""), node("span", `${good ? "✓" : s.health === "absent" || s.health === "silent" ? "✖" : "…"} ${s.health}`, good ? "good" : s.health === "starting" ? "warn" : "bad"), bound, String(s.gaps + s.rejected)];
  });
  showPreflight();
}

let missing = null;  // the newest answer

function preflight(value) {
  missing = value;
  showPreflight();
}

function showPreflight() {
  const runs = document.body.dataset.state === "running", lines = runs ? [] : missing?.lines ?? [];
  const must = lines.filter((l) => !l.waited_for), word = at("preflight-word");
  word.className = must.length ? "bad" : lines.length || !(runs || missing) ? "warn" : "good";
  if (runs) word.textContent = "✓ the session runs";
  else if (!missing) word.textContent = "… asks task";
  else if (must.length) word.textContent = `✖ ${must.length} thing${must.length > 1 ? "s" : ""} to mend`;
  else word.textContent = lines.length ? "… a start waits for what is listed" : "✓ nothing is missing";
  part("preflight", lines, (list) => list.replaceChildren(...lines.map((l) => {
    const item = node("li", `${l.waited_for ? "…" : "✖"} ${l.text}`, l.waited_for ? "" : "bad");
    item.dataset.code = l.code;
    if (l.can_be_overridden) {
      const label = node("label", " override at the start (recorded)", "dim"), box = document.createElement("input");
      box.type = "checkbox"; box.checked = overrides.has(l.code);
      box.addEventListener("change", () => box.checked ? overrides.add(l.code) : overrides.delete(l.code));
      label.prepend(box);
      item.append(" ", label);
    }
    return item;
  })));
}

function alarms(list, faults) {
  part("alarms", [list, faults], (place) => {
    const items = faults.map((f) => node("li", `✖ FAULT ${f.text}`, "bad"));
    for (const a of list) {
      const item = node("li", "", a.acknowledged_by ? "known" : "");
      item.append(node("strong", `${a.acknowledged_by ? "▲" : "✖"} ${a.service} ${a.code} `), node("span", `since ${clock(a.since)} `, "dim"));
      if (a.acknowledged_by) item.append(node("span", `acknowledged by ${a.acknowledged_by}, ${clock(a.acknowledged_at)}`, "dim"));
      else {
        const button = node("button", "acknowledge");
        button.dataset.alarm = a.code;
        button.addEventListener("click", () => ask("acknowledge", {service: a.service, code: a.code}));
        item.append(button);
      }
      item.append(node("div", a.detail, "detail"));
      items.push(item);
    }
    place.replaceChildren(...(items.length ? items : [node("li", "✓ none", "good none")]));
  });
}

function mouse(p) {
  const grating = p.shown === "grating";
  part("dial", [p.shown, p.angle_deg], (dial) => {
    const bars = at("dial-bars");
    bars.replaceChildren();
    if (grating) {
      for (let x = -50; x < 50; x += 20) {
        const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
        for (const [k, v] of Object.entries({x, y: -60, width: 10, height: 120})) bar.setAttribute(k, v);
        bars.append(bar);
      }
      bars.setAttribute("transform", `rotate(${-(p.angle_deg ?? 0)})`);
    }
    dial.dataset.what = p.shown;
    at("angle").textContent = grating ? `${(p.angle_deg ?? 0).toFixed(0)}°` : p.shown || "–";
    dial.setAttribute("aria-label", grating ? `grating at ${p.angle_deg} degrees` : p.shown || "nothing known");
  });
  at("ul").textContent = p.day_ul === null ? "–" : `${p.day_ul.toFixed(0)} µl today`;
  const ration = at("ration");
  ration.max = p.day_limit_ul ?? 1;
  ration.high = 0.9 * ration.max;
  ration.value = p.day_ul ?? 0;
  const passed = p.day_ul !== null && p.day_limit_ul !== null && p.day_ul > p.day_limit_ul ? " ✖ passed" : "";
  at("ration-words").textContent = `of ${number(p.day_limit_ul, 0)} µl${passed}; heard in this run: rewards ${p.rewards}, ${number(p.reward_ul, 0)} µl`;
  at("speed").textContent = `${number(p.speed_cm_s, 1)} cm/s`;
  at("licks").textContent = `licks: ${p.licks}`;
}

function latency(p) {
  at("budget").textContent = `a decision has ${p.budget_ms.toFixed(1)} ms`;
  rows("latency", p.latency, (s) => {
    const late = s.p99 !== null && s.p99 > p.budget_ms;
    const word = node("span", s.p99 === null || !s.budgeted ? "" : late ? "✖ over" : "✓ within", late ? "bad" : "good");
    return [s.name, String(s.n), number(s.last, 2), number(s.p50, 2), number(s.p99, 2), word];
  });
}

// ---------------------------------------------------------------- what is asked

async function press(button, kind, more) {
  if (button.dataset.sure && !button.classList.contains("sure")) {
    const label = [...button.childNodes];
    button.classList.add("sure");
    button.textContent = `${kind}? press again`;
    const back = () => { button.classList.remove("sure"); button.replaceChildren(...label); };
    button.undo = setTimeout(back, 4000);
    button.back = back;
    return;
  }
  if (button.back) { clearTimeout(button.undo); button.back(); button.back = null; }
  button.disabled = true;
  await ask(kind, more);
  button.disabled = false;
  button.focus();
}

for (const button of document.querySelectorAll("[data-ask]")) button.addEventListener("click", () => press(button, button.dataset.ask));
at("start").addEventListener("click", () => press(at("start"), "start", {session: at("session").value, overrides: [...overrides]}));
at("note-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const result = await ask("note", {text: at("note").value});
  if (result.accepted) at("note").value = "";
});
at("logout").addEventListener("click", async () => { await post("/logout", {}); location.assign("/login"); });
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.matches("input:not([type=radio]):not([type=checkbox]), select")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const target = event.key === "k" ? document.querySelector("#alarms button") : document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
  if (target) { event.preventDefault(); target.focus(); }
});

live({
  opened: () => charts.restart(), facts, recording: player.recording, moment: player.show, page, preflight,
  runs: day1.runs, candidates: day1.candidates, drawn: day1.drawn, rois: images.outlines, samples: charts.add, picture: images.picture,
}, (isLive) => {
  at("offline").hidden = isLive;
  document.body.classList.toggle("lost", !isLive);
});
