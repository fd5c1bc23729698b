// Shows the token to the server, which answers with a cookie that scripts can't read.
document.getElementById("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  const token = document.getElementById("token").value;
  const answer = document.getElementById("answer");
  try {
    const response = await fetch("/login", {method: "POST", headers: {"Content-Type": "application/json"}, body: token});
    if (response.ok) location.assign("/");
    else answer.textContent = `✖ ${(await response.json()).reason}`;
  } catch (error) {
    answer.textContent = `✖ the console does not answer: ${error.message}`;
  }
});
