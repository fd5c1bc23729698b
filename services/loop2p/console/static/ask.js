// Puts requests to the console, each once, and shows in words what became of it.
const answer = document.getElementById("answer");
const who = document.getElementById("who");
try { who.value = localStorage.getItem("who") ?? ""; } catch { /* not kept */ }
who.addEventListener("change", () => { try { localStorage.setItem("who", who.value); } catch { /* not kept */ } });

function id() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, "0")).join("");
}

export function say(good, words) {
  const time = new Date().toTimeString().slice(0, 8);
  answer.className = good ? "good" : "bad";
  answer.textContent = `${good ? "✓" : "✖"} ${time} ${words}`;
  answer.dataset.said = Number(answer.dataset.said ?? 0) + 1;  // two answers of one second can read alike
}

export async function post(path, body) {
  try {
    const response = await fetch(path, {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body)});
    if (response.status === 401) location.assign("/login");
    return await response.json();
  } catch (error) {
    return {accepted: false, reason: `the console does not answer (${error.message}); nothing is known of what became of it`};
  }
}

export async function ask(kind, more = {}) {
  const by = who.value.trim();
  if (!by) {
    who.focus();
    say(false, "who asks? Say it above: it goes on the record");
    return {accepted: false};
  }
  const words = more.words ?? kind.replace("_", " ");
  delete more.words;
  const result = await post("/ask", {id: id(), kind, by, ...more});
  say(result.accepted, `${words} ${result.accepted ? "accepted" : "refused"}${result.reason ? `: ${result.reason}` : ""}`);
  return result;
}
