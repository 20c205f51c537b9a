// Sets the theme before the first paint, so that a dark room never sees a white flash.
// A file of its own: the Content-Security-Policy allows no inline script.
(() => {
  let choice = "system";
  try {
    choice = localStorage.getItem("lamplighter.theme") || "system";
  } catch {
    // Storage is blocked: follow the system.
  }
  const dark =
    choice === "dark" || (choice === "system" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  const meta = document.querySelector('meta[name="theme-color"]');
  if (meta) meta.setAttribute("content", dark ? "#181715" : "#faf8f4");
})();
