/* The page that `clozeline explain` writes: answers, attention, and the worked example. */

const WEAK = 0.03; // shares of the largest amount below it are left without colour
const SHORT = 40; // pieces, up to which their table is open at first

/** Return the bytes of packed shares. */
async function unpacked({ levels, deflated }) {
  const bytes = Uint8Array.from(atob(deflated), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return { levels, bytes: new Uint8Array(await new Response(stream).arrayBuffer()) };
}

/** Colour an element by an amount from -1 to 1. */
function tone(element, amount) {
  element.style.setProperty("--tone", amount < 0 ? "var(--takes)" : "var(--adds)");
  const share = Math.abs(amount) < WEAK ? 0 : Math.min(1, Math.abs(amount));
  element.style.setProperty("--share", `${(70 * share).toFixed(1)}%`);
}

/** Return a number with a sign and few digits. */
function signed(value) {
  return `${value < 0 ? "−" : "+"}${Math.abs(value).toPrecision(2)}`;
}

/** Return the text, a line a segment, its pieces coloured by what they add. */
function makeText(data, byPiece) {
  const largest = Math.max(...byPiece.map(Math.abs), 1e-12);
  const lines = [make("p", { className: "text" }), make("p", { className: "text" })];
  for (const word of data.words) {
    const box = make("span", { className: "word" });
    for (const at of word) {
      const piece = make("span", { className: "piece", textContent: data.written[at] });
      if (data.is_special[at]) piece.classList.add("special");
      piece.title = `${data.pieces[at]}: ${signed(byPiece[at])}`;
      tone(piece, byPiece[at] / largest);
      box.append(piece);
    }
    lines[data.segment_ids[word[0]]].append(box);
  }
  return lines.filter((line) => line.childElementCount);
}

/** Return a table of the words and what they add. */
function makeAmounts(data, byPiece) {
  const largest = Math.max(...byPiece.map(Math.abs), 1e-12);
  const body = make("tbody");
  data.words.forEach((word) => {
    const amount = word.reduce((sum, at) => sum + byPiece[at], 0);
    const cell = make("td", { textContent: signed(amount) });
    tone(cell, amount / largest);
    const text = word.map((at) => data.written[at]).join("");
    body.append(make("tr", {}, make("td", { textContent: text }), cell));
  });
  return make("table", {}, body);
}

function makeAnswers({ kind, answers }) {
  const grid = make("div", { className: "answers" });
  const isNumber = kind === "score";
  for (const [answer, value] of answers) {
    const bar = make("span", { className: "bar" });
    bar.style.width = isNumber ? "0" : `${Math.max(0.3, 100 * value)}%`;
    const digits = isNumber ? value.toPrecision(4) : fixed(value, 4);
    grid.append(
      make("span", { className: "name", textContent: answer }),
      make("span", {}, bar),
      make("span", { className: "value", textContent: digits }));
  }
  return grid;
}

function makePrediction(data, prediction) {
  const card = make("article", { className: "card" },
    make("h3", { textContent: prediction.title }), makeAnswers(prediction));
  card.append(makeFormula(prediction.formula, prediction.source));
  const found = prediction.attribution;
  if (!found) return card;
  const [best] = prediction.answers[0];
  const sum = signed(found.value - found.baseline_value);
  card.append(
    make("h3", { textContent: `Contribution of each word to “${best}”` }),
    ...makeText(data, found.by_piece),
    make("p", { className: "small quiet", textContent:
      `Green: evidence for it; red: evidence against it. The contributions ${found.is_complete ? "add up to" : "do NOT add up to"} ` +
      `${sum}: from ${fixed(found.baseline_value, 4)} at the baseline (word embeddings set to zero) to ${fixed(found.value, 4)}; ` +
      `completeness error ${(100 * found.error).toFixed(2)} % (integrated gradients, ${found.points} points).` }),
    make("details", {}, make("summary", { textContent: "table of contributions" }),
      make("div", { className: "scrolls" }, makeAmounts(data, found.by_piece))));
  return card;
}

/** Return a formula and where it comes from. */
function makeFormula(formula, source) {
  const [words, link, rest] = source.split(/(https:\/\/\S+?)(?=,|$|\s)/);
  const cited = make("span", { className: "small quiet" }, words);
  if (link) cited.append(make("a", { href: link, textContent: link, rel: "noreferrer" }), rest ?? "");
  return make("p", {}, make("span", { className: "formula", textContent: formula }), " — ", cited);
}

// ---- the worked example

function makeInput(data) {
  const head = make("tr");
  for (const name of ["token", "position", "id", "segment"]) {
    head.append(make("th", { textContent: name }));
  }
  const body = make("tbody");
  data.pieces.forEach((piece, at) => {
    const written = data.written[at] === piece.replace(/^##/, "") ? piece : `${piece}  (${data.written[at]})`;
    const row = make("tr", {}, make("td", { textContent: written }));
    for (const number of [at, data.input_ids[at], data.segment_ids[at] ? "B" : "A"]) {
      row.append(make("td", { textContent: number }));
    }
    body.append(row);
  });
  return make("table", {}, make("thead", {}, head), body);
}

/** Return the numbers of a step: a row a piece, or one row for the text as a whole. */
function makeNumbers(data, step) {
  const columns = step.rows[0].length;
  const isPairs = step.shape === "L × L";
  const head = make("tr", {}, make("th"));
  for (let column = 0; column < columns; column += 1) {
    head.append(make("th", { textContent: isPairs ? data.pieces[column] : column }));
  }
  const cut = step.size.at(-1) - columns;
  if (cut) head.append(make("th", { textContent: `${cut} more` }));
  const body = make("tbody");
  step.rows.forEach((numbers, at) => {
    const name = step.size.length === 1 ? "" : data.pieces[at];
    const row = make("tr", {}, make("td", { textContent: name }));
    for (const number of numbers) {
      const cell = make("td", { textContent: fixed(number, 3).replace("-", "−") });
      tone(cell, number / step.largest);
      row.append(cell);
    }
    if (cut) row.append(make("td", { textContent: "…" }));
    body.append(row);
  });
  return make("table", {}, make("thead", {}, head), body);
}

/** Return one step, whose table is made when it is opened. */
function makeStep(data, step, number) {
  const details = make("details", {},
    make("summary", {}, `${number}. ${step.title}`,
      make("span", { className: "formula", textContent: step.formula })));
  details.addEventListener("toggle", () => {
    if (!details.open || details.childElementCount > 1) return;
    const size = step.size.join(" × ");
    details.append(makeFormula(`${step.shape} = ${size} numbers`, step.source),
      make("div", { className: "scrolls" }, makeNumbers(data, step)));
  });
  return details;
}

function showSteps(root, data) {
  const input = make("details", { open: data.pieces.length <= SHORT },
    make("summary", {}, "1. Tokens, ids and segments",
      make("span", { className: "formula", textContent: "[CLS] A [SEP] B [SEP]" })),
    make("div", { className: "scrolls" }, makeInput(data)));
  const steps = data.steps.map((step, index) => makeStep(data, step, index + 2));
  const all = make("button", { type: "button", textContent: "open all" });
  all.addEventListener("click", () => {
    const open = all.textContent === "open all";
    for (const step of [input, ...steps]) step.open = open;
    all.textContent = open ? "close all" : "open all";
  });
  root.append(all, input, ...steps);
}

async function main() {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  byId("run").textContent =
    `${data.run} · ${data.layers} layers, ${data.heads} heads · ${data.pieces.length} tokens`;
  for (const note of data.notes) {
    byId("notes").append(make("p", { className: "note", textContent: note }));
  }
  byId("answers").append(...data.predictions.map((each) => makePrediction(data, each)));
  byId("answers").parentElement.hidden = !data.predictions.length;
  showSteps(byId("steps"), data);
  const attention = new Attention({
    labels: data.written,
    words: data.words,
    isSpecial: data.is_special,
    segments: data.segment_ids,
    layers: data.layers,
    heads: data.heads,
    attention: await unpacked(data.attention),
    rollout: await unpacked(data.rollout),
  });
  new AttentionFigure(byId("attention"), attention, { layer: data.layer, head: data.head });
}

main();
