"use strict";

// What is shown: of each facet the values that were chosen (none: all of them), and what was picked
// by name.  Elements tell by data-filters which rows of the page's data they show.
const chosen = {};
const picks = {};
const drawn = new Map(); // places of charts, with their views
let data;

async function unpack(id) {
  const packed = atob(document.getElementById(id).textContent);
  const bytes = Uint8Array.from(packed, (one) => one.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

const all = (selector, within = document) => [...within.querySelectorAll(selector)];

function isShown(item) {
  return Object.entries(chosen).every(([field, values]) => !values.size || values.has(item[field]));
}

function rowsOf(name, { only, picks: named }) {
  const wanted = Object.entries(only);
  for (const [field, pick] of Object.entries(named)) wanted.push([field, picks[pick]]);
  return (data.rows[name] ?? []).filter((row) => {
    const item = data.items[row.item];
    if (item && !isShown(item)) return false;
    return wanted.every(([field, value]) => String(row[field] ?? item?.[field]) === String(value));
  });
}

// Charts

function datasets(place) {
  const filters = JSON.parse(place.closest("figure").dataset.filters);
  const { rows } = data.charts[place.dataset.chart];
  return Object.fromEntries(rows.map((name) => [name, rowsOf(name, filters)]));
}

function specOf(place) {
  const { spec } = data.charts[place.dataset.chart];
  const rows = datasets(place);
  const filled = (one) => (rows[one.name] ? { ...one, values: rows[one.name] } : one);
  return { ...spec, data: spec.data.map(filled) };
}

async function draw(place) {
  if (drawn.has(place) || place.clientWidth === 0) return;
  drawn.set(place, null);
  // A chart of which nothing is shown is no fault: only errors are told (log level 1).
  const quiet = { logLevel: 1, actions: false, defaultStyle: false };
  const options = { ...quiet, mode: "vega", renderer: "svg" };
  try {
    const { view } = await vegaEmbed(place, specOf(place), options);
    drawn.set(place, view);
    place.querySelector("svg").ariaHidden = "true"; // its place has the words
    place.dataset.drawn = "yes";
  } catch (error) {
    place.textContent = `This chart could not be drawn: ${error.message}`;
  }
}

function showCharts() {
  for (const place of all(".chart")) {
    const found = datasets(place);
    const [first] = Object.values(found);
    place.closest("figure").hidden = first.length === 0;
    const view = drawn.get(place);
    if (!view || first.length === 0) continue;
    for (const [name, rows] of Object.entries(found)) view.data(name, rows);
    view.run();
  }
}

// A chart is drawn when it is nearly in view; the others follow while nothing else is to be done,
// so that all of them are there to be printed.
function drawInTurn() {
  const near = new IntersectionObserver(
    (entries) => entries.filter((one) => one.isIntersecting).forEach((one) => draw(one.target)),
    { rootMargin: "600px" },
  );
  const places = all(".chart");
  places.forEach((place) => near.observe(place));
  const idle = window.requestIdleCallback ?? ((work) => setTimeout(work, 50));
  const next = async () => {
    const place = places.find((one) => !drawn.has(one) && one.clientWidth > 0);
    if (!place) return;
    await draw(place);
    idle(next);
  };
  idle(next);
}

// Tables

function compare(left, right) {
  const unknown = (value) => value === null || value === undefined || value === "";
  if (unknown(left) || unknown(right)) return unknown(left) - unknown(right);
  const [a, b] = [Number(left), Number(right)];
  return Number.isNaN(a) || Number.isNaN(b) ? String(left).localeCompare(String(right)) : a - b;
}

function cell(head, row) {
  const isFirst = head.cellIndex === 0;
  const made = document.createElement(isFirst ? "th" : "td");
  if (isFirst) made.scope = "row";
  made.className = head.className;
  made.textContent = row[head.dataset.field] ?? "-";
  return made;
}

function fill(table) {
  const heads = all("thead th", table);
  const rows = rowsOf(table.dataset.rows, JSON.parse(table.dataset.filters));
  const by = heads.find((head) => head.ariaSort);
  if (by) {
    const field = by.dataset.sort ?? by.dataset.field;
    const sign = by.ariaSort === "ascending" ? 1 : -1;
    rows.sort((a, b) => sign * compare(a[field], b[field]));
  }
  table.tBodies[0].replaceChildren(
    ...rows.map((row) => {
      const line = document.createElement("tr");
      line.append(...heads.map((head) => cell(head, row)));
      return line;
    }),
  );
}

function sortStatic(table, head) {
  const sign = head.ariaSort === "ascending" ? 1 : -1;
  const value = (line) => {
    const own = line.cells[head.cellIndex];
    return own && own.colSpan === 1 ? (own.dataset.value ?? own.textContent) : null;
  };
  for (const body of table.tBodies) {
    const lines = [...body.rows].filter((line) => !line.classList.contains("group"));
    lines.sort((a, b) => sign * compare(value(a), value(b)));
    body.append(...lines);
  }
}

function makeSortable(table) {
  for (const head of all("thead th", table)) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const order = head.ariaSort === "ascending" ? "descending" : "ascending";
      for (const other of all("thead th", table)) other.ariaSort = null;
      head.ariaSort = order;
      if (table.dataset.rows) fill(table);
      else sortStatic(table, head);
    });
  }
}

// Filters and picks

function show() {
  for (const element of all("[data-item]")) {
    element.hidden = !isShown(data.items[element.dataset.item]);
  }
  for (const element of all("[data-engine]")) {
    element.hidden = chosen.engine?.size > 0 && !chosen.engine.has(element.dataset.engine);
  }
  for (const body of all(".sortable tbody")) {
    body.hidden = all("[data-item]", body).every((line) => line.hidden);
  }
  showPicks();
  all("table[data-rows]").forEach(fill);
  showCharts();
  const count = data.items.filter(isShown).length;
  const output = document.querySelector("#filters output");
  if (output) output.textContent = `${count} of ${data.items.length} shown`;
}

function showPicks() {
  for (const select of all('[data-pick="case"]')) {
    for (const option of select.options) {
      option.hidden = option.disabled = !isShown(data.items[option.value]);
    }
    const options = [...select.options];
    const kept = options.find((one) => one.value === picks.case && !one.disabled);
    picks.case = (kept ?? options.find((one) => !one.disabled))?.value;
  }
  for (const select of all("[data-pick]")) {
    picks[select.dataset.pick] ??= select.value;
    select.value = picks[select.dataset.pick];
  }
  const item = data.items[picks.case];
  for (const title of all("#ladder figcaption strong, #layers > figure figcaption strong")) {
    title.textContent = item?.name ?? "";
    title.closest("figure").querySelector(".chart").ariaLabel = `Chart. ${item?.name ?? ""}`;
  }
  const note = document.getElementById("case-note");
  if (note) note.textContent = item?.note ?? "";
}

function pick(name, value) {
  picks[name] = value;
  showPicks();
  all("table[data-rows]").forEach(fill);
  showCharts();
}

function pickByAddress() {
  const found = /^#case-(\d+)$/.exec(location.hash);
  if (!found || !data.items[found[1]]?.name) return;
  pick("case", found[1]);
  document.getElementById("layers")?.scrollIntoView();
}

function readFilters(form) {
  for (const details of all("details", form)) {
    const boxes = all("input", details);
    const values = boxes.filter((box) => box.checked).map((box) => box.value);
    chosen[boxes[0].name] = new Set(values);
    details.querySelector("summary span").textContent = values.join(", ") || "all";
  }
}

function listen() {
  const form = document.getElementById("filters");
  if (form) {
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("change", () => (readFilters(form), show()));
    form.addEventListener("reset", () => setTimeout(() => (readFilters(form), show())));
    document.addEventListener("click", ({ target }) => {
      for (const open of all("details[open]", form)) if (!open.contains(target)) open.open = false;
    });
    form.addEventListener("keydown", ({ key, target }) => {
      const details = target.closest("details");
      if (key !== "Escape" || !details) return;
      details.open = false;
      details.querySelector("summary").focus();
    });
  }
  for (const select of all("[data-pick]")) {
    select.addEventListener("change", () => {
      pick(select.dataset.pick, select.value);
      if (select.dataset.pick === "case") history.replaceState(null, "", `#case-${select.value}`);
    });
  }
  for (const button of all("[data-download]")) button.addEventListener("click", () => save(button));
  addEventListener("hashchange", pickByAddress);
  addEventListener("beforeprint", beforePrint);
  addEventListener("afterprint", afterPrint);
}

async function save({ dataset }) {
  const blob = new Blob([await unpack(dataset.download)], { type: dataset.type });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = dataset.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// On paper there is nothing to press: all that is filtered away or folded is shown.
let filtered, folded;

function beforePrint() {
  filtered = { ...chosen };
  folded = all("main details:not([open])");
  folded.forEach((one) => (one.open = true));
  for (const field of Object.keys(chosen)) chosen[field] = new Set();
  show();
}

function afterPrint() {
  folded.forEach((one) => (one.open = false));
  Object.assign(chosen, filtered);
  show();
}

function followTheme() {
  const button = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const name = () => (button.textContent = isDark() ? "Light" : "Dark");
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    name();
  });
  dark.addEventListener("change", name);
  name();
}

async function start() {
  followTheme();
  data = JSON.parse(await unpack("data"));
  document.documentElement.classList.add("scripted");
  all("table.sortable, table[data-rows]").forEach(makeSortable);
  listen();
  show();
  pickByAddress();
  drawInTurn();
  document.documentElement.dataset.ready = "yes";
}

start().catch((error) => {
  const fault = document.getElementById("fault");
  fault.textContent = `The charts could not be shown: ${error.message}`;
  fault.hidden = false;
});
