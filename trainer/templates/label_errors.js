"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const find = id => document.getElementById(id);
  const KEY = "hpa-label-errors:" + data.key;
  const BATCH = 200;

  // A cell's id is its FOV's with a tail; the page holds the tails of all cells of a FOV, also of those it does not show.
  const idsOfFov = data.fovs.map(fov => fov.tails.map(tail => fov.id + tail));
  const fovNumber = new Map(data.fovs.map((fov, number) => [fov.id, number]));
  const names = labels => labels.map(k => data.classes[k]).join(", ") || "none";
  const percent = share => Math.round(100 * share) + "\u00a0%";

  let marks = readMarks();
  let shown = [];
  let fovShown = null;

  function readMarks() {
    try {
      return new Set(JSON.parse(localStorage.getItem(KEY) || "[]"));
    } catch (error) {
      return new Set();
    }
  }

  function keepMarks() {
    try {
      localStorage.setItem(KEY, JSON.stringify([...marks]));
    } catch (error) {
      find("unkept").hidden = false;
    }
    showMarks();
  }

  function setMarks(ids, marked) {
    for (const id of ids) {
      if (marked) marks.add(id);
      else marks.delete(id);
    }
    keepMarks();
  }

  const isWholeFovMarked = fov => idsOfFov[fov].every(id => marks.has(id));

  function toggleFov(fov) {
    setMarks(idsOfFov[fov], !isWholeFovMarked(fov));
  }

  function make(tag, className, text) {
    const element = document.createElement(tag);
    element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  function line(what, value, className = "soft") {
    const row = make("div", "line");
    row.append(make("span", className, what + " "), value);
    return row;
  }

  // Cell i is the i-th picture of the sheets, row by row.
  function placePicture(element, i) {
    const {columns, rows, files} = data.sheets;
    const sheet = Math.floor(i / (columns * rows));
    const place = i % (columns * rows);
    const rowsHere = Math.ceil(Math.min(columns * rows, data.cells.length - sheet * columns * rows) / columns);
    const across = columns > 1 ? (place % columns) / (columns - 1) : 0;
    const down = rowsHere > 1 ? Math.floor(place / columns) / (rowsHere - 1) : 0;
    element.style.backgroundImage = `url("${files[sheet]}")`;
    element.style.backgroundSize = `${100 * columns}% ${100 * rowsHere}%`;
    element.style.backgroundPosition = `${100 * across}% ${100 * down}%`;
  }

  function makeCard(i) {
    const cell = data.cells[i], fov = data.fovs[cell.fov];
    const card = make("li", "card");
    card.dataset.cell = i;
    const picture = make("button", "picture");
    picture.type = "button";
    picture.title = cell.id;
    picture.setAttribute("aria-label",
      `cell ${cell.id}: given ${names(cell.given)}, looks like ${names(cell.predicted)} ${percent(cell.confidence)}`);
    placePicture(picture, i);
    const likeness = line("looks like", make("b", "", names(cell.predicted)));
    likeness.append(" " + percent(cell.confidence));
    const link = make("a", "", fov.id);
    link.href = "#fov=" + encodeURIComponent(fov.id);
    link.title = "Show the cells of this FOV";
    const whole = make("button", "whole");
    whole.type = "button";
    whole.title = "All cells of this FOV, also those not listed";
    card.append(picture, line("given", make("b", "", names(cell.given))), likeness,
      line(cell.issue ? "likely wrong:" : "quality", cell.quality.toFixed(3), cell.issue ? "high" : "soft"),
      line("FOV", link), whole);
    return card;
  }

  function showMarksOfCard(card) {
    const cell = data.cells[card.dataset.cell];
    const marked = marks.has(cell.id), fovMarked = isWholeFovMarked(cell.fov);
    card.classList.toggle("marked", marked);
    card.firstChild.setAttribute("aria-pressed", marked);
    card.lastChild.textContent = `${fovMarked ? "Unmark" : "Mark"} FOV (${idsOfFov[cell.fov].length})`;
  }

  function showMarks() {
    for (const card of find("cells").children) showMarksOfCard(card);
    for (const button of document.querySelectorAll("#fovs button")) {
      const marked = isWholeFovMarked(fovNumber.get(button.dataset.fov));
      button.textContent = marked ? "Unmark all" : "Mark all";
      button.setAttribute("aria-pressed", marked);
    }
    let listed = 0;
    for (const cell of data.cells) listed += marks.has(cell.id);
    const others = marks.size - listed;
    find("marked").textContent = `${marks.size} marked to drop` + (others ? ` (${others} of them not listed here)` : "");
    find("download").disabled = find("unmark-all").disabled = !marks.size;
  }

  const score = {
    quality: (a, b) => a.quality - b.quality,
    confidence: (a, b) => b.confidence - a.confidence,
    given: (a, b) => names(a.given).localeCompare(names(b.given)),
    predicted: (a, b) => names(a.predicted).localeCompare(names(b.predicted)),
    fov: (a, b) => data.fovs[a.fov].quality - data.fovs[b.fov].quality || a.fov - b.fov,
  };

  function refresh() {
    const given = find("given").value, predicted = find("predicted").value;
    const text = find("text").value.trim().toLowerCase(), limit = Number(find("quality").value);
    const compare = score[find("sort").value];
    find("quality-value").textContent = limit.toFixed(2);
    shown = data.cells.map((cell, i) => i).filter(i => {
      const cell = data.cells[i];
      return (given === "" || cell.given.includes(Number(given)))
        && (predicted === "" || cell.predicted.includes(Number(predicted)))
        && (limit >= 1 || cell.quality <= limit)
        && (fovShown === null || cell.fov === fovShown)
        && (!find("issues-only").checked || cell.issue)
        && (!find("marked-only").checked || marks.has(cell.id))
        && cell.id.toLowerCase().includes(text);
    });
    // Equal ones stay in the order of the ranking.
    shown.sort((a, b) => compare(data.cells[a], data.cells[b]) || a - b);
    find("cells").replaceChildren();
    find("of-fov").hidden = fovShown === null;
    if (fovShown !== null) find("fov-name").textContent = data.fovs[fovShown].id;
    find("mark-shown").disabled = find("unmark-shown").disabled = !shown.length;
    showMore();
    showMarks();
  }

  function showMore() {
    const list = find("cells"), start = list.children.length;
    const cards = shown.slice(start, start + BATCH).map(makeCard);
    cards.forEach(showMarksOfCard);
    list.append(...cards);
    const left = shown.length - list.children.length;
    find("more").hidden = !left;
    find("more").textContent = `Show ${Math.min(BATCH, left)} more of ${left}`;
    find("count").textContent = `${shown.length} of ${data.cells.length} listed cells pass the filter`;
    return cards[0];
  }

  function readAddress() {
    const match = /^#fov=(.*)$/.exec(location.hash);
    let fov;
    try {
      fov = match ? fovNumber.get(decodeURIComponent(match[1])) : undefined;
    } catch (error) {
      fov = undefined;
    }
    fovShown = fov === undefined ? null : fov;
    refresh();
    if (fovShown !== null) find("tools").scrollIntoView();
  }

  function download() {
    const quote = text => /[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
    const text = ["cell_id", ...[...marks].sort().map(quote)].join("\n") + "\n";
    const address = URL.createObjectURL(new Blob([text], {type: "text/csv"}));
    const link = make("a", "");
    link.href = address;
    link.download = "exclude.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
  }

  function moveFocus(event) {
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    const card = event.target.closest(".card");
    if (!step || !card) return;
    const next = step > 0 ? card.nextElementSibling : card.previousElementSibling;
    if (next) next.firstChild.focus();
    event.preventDefault();
  }

  for (const id of ["given", "predicted"]) {
    data.classes.forEach((name, k) => {
      const count = data.cells.filter(cell => cell[id].includes(k)).length;
      if (count) find(id).append(new Option(`${name} (${count})`, k));
    });
  }
  for (const id of ["given", "predicted", "quality", "text", "sort", "issues-only", "marked-only"]) {
    find(id).addEventListener("input", refresh);
  }
  find("cells").addEventListener("click", event => {
    const card = event.target.closest(".card");
    if (!card || event.target.tagName !== "BUTTON") return;
    const cell = data.cells[card.dataset.cell];
    if (event.target.className === "whole") toggleFov(cell.fov);
    else setMarks([cell.id], !marks.has(cell.id));
  });
  find("cells").addEventListener("keydown", moveFocus);
  find("fovs").addEventListener("click", event => {
    if (event.target.tagName === "BUTTON") toggleFov(fovNumber.get(event.target.dataset.fov));
  });
  find("more").addEventListener("click", () => showMore().firstChild.focus());
  find("all-fovs").addEventListener("click", () => { location.hash = ""; });
  find("mark-shown").addEventListener("click", () => setMarks(shown.map(i => data.cells[i].id), true));
  find("unmark-shown").addEventListener("click", () => setMarks(shown.map(i => data.cells[i].id), false));
  find("unmark-all").addEventListener("click", () => {
    if (confirm(`Take back all ${marks.size} marks?`)) setMarks([...marks], false);
  });
  find("download").addEventListener("click", download);
  window.addEventListener("hashchange", readAddress);
  window.addEventListener("storage", event => {
    if (event.key !== KEY) return;
    marks = readMarks();
    showMarks();
  });
  readAddress();
})();
