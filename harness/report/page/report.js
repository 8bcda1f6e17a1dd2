"use strict";
// The filters and the open cell are kept in the URL's fragment, so that a link shows what its sender saw.
const byId = (id) => document.getElementById(id);
const details = JSON.parse(byId("details").textContent);
const [MUTANT, VERDICT, SECONDS, REASON, COLUMNS, ROWS, MORE, BUNDLE, REPLAY, FAILURE, CONSOLE, ACCELERATOR, QEMU, IMAGE] = Array(14).keys();
const LEFT = -2; // the witness names the address of the column to its left
const THEMES = ["auto", "light", "dark"];
const text = (number) => (number < 0 ? "" : details.pool[number]);
const state = { q: "", vm: [], verdict: [], cell: "", theme: "auto" };
const form = byId("filters"), dialog = byId("cell"), matrix = byId("matrix");

function made(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function readFragment() {
  const fields = new URLSearchParams(location.hash.slice(1));
  state.q = fields.get("q") ?? "";
  state.vm = fields.getAll("vm");
  state.verdict = fields.getAll("verdict");
  state.cell = fields.get("cell") ?? "";
  state.theme = THEMES.includes(fields.get("theme")) ? fields.get("theme") : "auto";
}

function writeFragment() {
  const fields = new URLSearchParams();
  if (state.q) fields.set("q", state.q);
  for (const name of ["vm", "verdict"]) for (const value of state[name]) fields.append(name, value);
  if (state.cell) fields.set("cell", state.cell);
  if (state.theme !== "auto") fields.set("theme", state.theme);
  history.replaceState(null, "", fields.size ? `#${fields}` : location.pathname + location.search);
}

// ---- the matrix ----

const groups = matrix ? [...matrix.querySelectorAll(".group")].map((body) => ({
  body, button: body.querySelector("button"), opened: body.hasAttribute("data-open"),
  claim: body.querySelector(".claim"), stop: null,
  rows: [...body.querySelectorAll(".case")].map((row) => ({
    row, number: row.dataset.case, cells: [...row.querySelectorAll("td")], words: words(row, body),
  })),
})) : [];

function words(row, body) {
  const reasons = details.vms.flatMap((_, vm) => (details.squares[`${row.dataset.case},${vm}`] ?? []).map((cell) => text(cell[REASON])));
  return [row.querySelector("th").textContent, row.querySelector("th").title, body.querySelector("button").title, body.querySelector("th").textContent, ...reasons].join("\n").toLowerCase();
}

function show() {
  document.documentElement.dataset.theme = state.theme === "auto" ? "" : state.theme;
  byId("theme").textContent = `colors: ${state.theme}`;
  if (!matrix) return;
  byId("q").value = state.q;
  for (const box of form.querySelectorAll("input[type=checkbox]")) box.checked = state[box.name].includes(box.value);
  const columns = details.vms.map((vm) => !state.vm.length || state.vm.includes(vm));
  const wanted = state.q.toLowerCase(), filtered = Boolean(wanted || state.verdict.length);
  let count = 0, all = 0;
  for (const group of groups) {
    let left = 0;
    for (const { row, cells, words } of group.rows) {
      const fits = cells.map((cell, column) => columns[column] && (!state.verdict.length || state.verdict.includes(cell.className.split(" ")[0])));
      row.hidden = !(words.includes(wanted) && fits.some(Boolean));
      cells.forEach((cell, column) => { cell.hidden = !columns[column]; cell.classList.toggle("faded", state.verdict.length > 0 && !fits[column]); });
      left += !row.hidden;
      all += 1;
    }
    group.claim.querySelectorAll("td").forEach((cell, column) => { cell.hidden = !columns[column]; });
    group.body.hidden = !left;
    count += left;
    fold(group, !(group.opened || filtered));
    if (!group.stop || group.stop.closest("[hidden]")) stopAt(group, firstShown(group));
  }
  for (const row of matrix.querySelectorAll("thead tr, tfoot tr")) [...row.children].slice(1).forEach((cell, column) => { cell.hidden = !columns[column]; });
  byId("count").textContent = `${count} of ${all} cases`;
}

function fold(group, folded) {
  group.body.classList.toggle("folded", folded);
  group.button.setAttribute("aria-expanded", String(!folded));
}

// ---- a cell ----

const nameOf = (number, vm) => `${details.cases[number][1]}::${details.cases[number][0]}@${details.vms[vm]}`;

function squareOf(name) {
  const number = details.cases.findIndex((known) => name.startsWith(`${known[1]}::${known[0]}@`));
  const vm = number < 0 ? -1 : details.vms.indexOf(name.slice(details.cases[number][1].length + details.cases[number][0].length + 3));
  return vm < 0 ? null : [number, vm];
}

function witnessTable(cell) {
  const names = details.columns[cell[COLUMNS]], body = made("tbody");
  for (let at = 0; at < cell[ROWS].length; at += names.length) {
    const row = made("tr");
    let last = "";
    for (let column = 0; column < names.length; column += 1) {
      const number = cell[ROWS][at + column];
      last = number === LEFT ? last : text(number);
      row.append(made("td", { class: "mono" }, last));
    }
    body.append(row);
  }
  const head = made("thead", {}, made("tr", {}, ...names.map((name) => made("th", { scope: "col" }, name))));
  const more = cell[MORE] ? [made("p", { class: "under" }, `${cell[MORE]} more in results.jsonl`)] : [];
  return folded(`witnesses (${cell[ROWS].length / names.length})`, made("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "witnesses" }, made("table", {}, head, body)), ...more);
}

const folded = (summary, ...children) => made("details", {}, made("summary", {}, summary), ...children);

function oneCell(cell) {
  const good = ["pass", "skip", "known-fail"].includes(text(cell[VERDICT]));
  const part = made("section", { class: "one" });
  const name = cell[MUTANT] < 0 ? "honest probe" : `mutant ${text(cell[MUTANT])}`;
  part.append(made("p", {}, made("span", { class: `v ${text(cell[VERDICT])}` }, text(cell[VERDICT])), ` ${name}, ${cell[SECONDS]} s`));
  if (cell[REASON] >= 0) part.append(made("pre", { tabindex: "0" }, text(cell[REASON])));
  const copy = made("button", { type: "button", class: "copy", "aria-label": `copy the command ${text(cell[REPLAY])}` }, "copy");
  part.append(made("p", {}, made("span", { class: "command" }, made("code", {}, text(cell[REPLAY])), copy)));
  if (cell[BUNDLE] >= 0) part.append(made("p", {}, "bundle: ", made("a", { href: `${encodeURI(text(cell[BUNDLE]))}/README.md` }, text(cell[BUNDLE]))));
  if (cell[COLUMNS] >= 0) part.append(witnessTable(cell));
  if (cell[FAILURE] >= 0) part.append(folded("failure and traces", made("pre", { tabindex: "0" }, text(cell[FAILURE]))));
  if (cell[CONSOLE] >= 0) part.append(folded("end of the console, without fences", made("pre", { tabindex: "0" }, text(cell[CONSOLE]))));
  for (const inner of part.querySelectorAll("details")) inner.open = !good;
  return part;
}

function open(number, vm) {
  const [name, file, claim] = details.cases[number], cells = details.squares[`${number},${vm}`] ?? [];
  state.cell = nameOf(number, vm);
  writeFragment();
  byId("cell-name").textContent = `${name} on ${details.vms[vm]}`;
  const parameters = name.includes("[") ? name.slice(name.indexOf("[") + 1).replaceAll("][", ", ").replace(/]$/, "") : "none";
  const facts = made("dl"), last = cells.find((cell) => cell[IMAGE] >= 0);
  const known = { claim, file, parameters, ...(last ? { accelerator: text(last[ACCELERATOR]), QEMU: text(last[QEMU]), image: text(last[IMAGE]) } : {}) };
  for (const [key, value] of Object.entries(known)) if (value) facts.append(made("dt", {}, key), made("dd", {}, value));
  byId("cell-body").replaceChildren(facts, ...cells.map(oneCell), ...(cells.length ? [] : [made("p", {}, "It was asked for and did not run.")]));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

// ---- keys, clicks, the fragment ----

const links = () => groups.flatMap((group) => group.body.hidden ? [] : group.rows.flatMap(({ row }) => row.hidden ? [] : [...row.querySelectorAll("td:not([hidden]) > a")]));
const failures = () => links().filter((link) => !["pass", "skip", "known-fail"].includes(link.parentNode.className.split(" ")[0]));
const placeOf = (link) => [Number(link.closest("tr").dataset.case), Number(link.dataset.vm)];

function step(by) {
  const found = failures();
  if (!found.length) return;
  const at = found.findIndex((link) => nameOf(...placeOf(link)) === state.cell);
  const link = found[(at + by + (at < 0 && by < 0 ? 1 : 0) + found.length) % found.length];
  open(...placeOf(link));
}

function move(link, key) {
  const row = link.closest("tr"), vm = link.dataset.vm;
  const cellsOfRow = [...row.querySelectorAll("td:not([hidden]) > a")];
  const column = links().filter((each) => each.dataset.vm === vm && each.checkVisibility());
  const to = { ArrowLeft: cellsOfRow[cellsOfRow.indexOf(link) - 1], ArrowRight: cellsOfRow[cellsOfRow.indexOf(link) + 1], ArrowUp: column[column.indexOf(link) - 1], ArrowDown: column[column.indexOf(link) + 1] }[key];
  if (to) { stopAt(groups.find(({ body }) => body.contains(to)), to); to.focus(); }
}

// One square of each claim is in the order of the Tab key; arrows move it.
function stopAt(group, link) {
  if (group.stop) group.stop.tabIndex = -1;
  group.stop = link ?? null;
  if (link) link.tabIndex = 0;
}

function firstShown(group) {
  for (const { row, cells } of group.rows) {
    const cell = row.hidden ? null : cells.find((each) => !each.hidden && each.querySelector("a"));
    if (cell) return cell.querySelector("a");
  }
  return null;
}

async function copy(button) {
  const command = button.previousSibling;
  try {
    await navigator.clipboard.writeText(command.textContent);
  } catch {
    getSelection().selectAllChildren(command);
    document.execCommand("copy");
  }
  button.textContent = "copied";
  setTimeout(() => { button.textContent = "copy"; }, 2000);
}

document.addEventListener("click", (event) => {
  const target = event.target.closest("a, button");
  if (!target) return;
  if (target.matches(".copy")) copy(target);
  else if (target.matches("#matrix td > a")) { event.preventDefault(); open(...placeOf(target)); }
  else if (target.matches("a.open")) { event.preventDefault(); open(...squareOf(target.dataset.cell)); }
  else if (target.matches(".claim button")) { const group = groups.find(({ button }) => button === target); fold(group, !group.body.classList.contains("folded")); }
  else if (target.matches("nav a")) { event.preventDefault(); const heading = byId(target.hash.slice(1)); heading.tabIndex = -1; heading.scrollIntoView(); heading.focus(); }
  else if (target.id === "unfold") for (const group of groups) fold(group, false);
  else if (target.id === "theme") { state.theme = THEMES[(THEMES.indexOf(state.theme) + 1) % THEMES.length]; writeFragment(); show(); }
  else if (target.id === "next") step(1);
  else if (target.id === "previous") step(-1);
});

document.addEventListener("keydown", (event) => {
  if (event.target.matches("input[type=search]") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key.startsWith("Arrow") && event.target.matches("#matrix td > a")) { event.preventDefault(); move(event.target, event.key); }
  else if (event.key === "/" && form) { event.preventDefault(); byId("q").focus(); }
  else if (event.key === "n") step(1);
  else if (event.key === "p") step(-1);
});

dialog.addEventListener("close", () => { state.cell = ""; writeFragment(); });

function follow() {
  readFragment();
  show();
  const square = squareOf(state.cell);
  if (square) open(...square);
}

byId("theme").hidden = false;
if (matrix) {
  form.hidden = document.querySelector(".keys").hidden = false;
  for (const link of matrix.querySelectorAll("td > a")) link.tabIndex = -1;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => {
    state.q = byId("q").value;
    for (const name of ["vm", "verdict"]) state[name] = [...form.querySelectorAll(`input[name=${name}]:checked`)].map((box) => box.value);
    writeFragment();
    show();
  });
  form.addEventListener("reset", (event) => { event.preventDefault(); Object.assign(state, { q: "", vm: [], verdict: [] }); writeFragment(); show(); });
}
addEventListener("hashchange", follow);
follow();
