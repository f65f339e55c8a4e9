const charts = JSON.parse(document.getElementById("charts").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)").matches;

function draw(place) {
  if (place.dataset.drawn) return;
  place.dataset.drawn = "yes";
  const options = { actions: false, renderer: "svg", tooltip: { theme: dark ? "dark" : "light" } };
  vegaEmbed(place, charts[place.dataset.chart], options).catch((error) => {
    place.textContent = `This chart could not be drawn: ${error.message}`;
  });
}

// A chart fits its width to the page, so it can only be drawn once it is visible.
function drawVisible() {
  for (const place of document.querySelectorAll(".chart")) {
    if (place.clientWidth > 0) draw(place);
  }
}

for (const details of document.querySelectorAll("details")) {
  details.addEventListener("toggle", drawVisible);
}
drawVisible();
