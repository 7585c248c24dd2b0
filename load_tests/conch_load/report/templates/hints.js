// Shows a mark's text beside the pointer. Everything else in the page works without it.
const hint = document.getElementById("hint");
document.addEventListener("pointermove", (event) => {
  const text = event.target.dataset ? event.target.dataset.t : undefined;
  hint.style.display = text ? "block" : "none";
  if (!text) return;
  hint.textContent = text;
  hint.style.left = Math.min(event.clientX + 14, innerWidth - hint.offsetWidth - 8) + "px";
  hint.style.top = event.clientY - 30 + "px";
});
