/* The playground: asks the REST API what is typed, and shows the answer. */

const PAUSE_MS = 250; // in typing, before the server is asked
const MOST_COMPARED = 12;
const MOST_SEARCHED = 64; // as many as `rerank` reads

const TEXT = { name: "text", label: "Text", first: "The dog [MASK] at the cat." };
const PAIR = { name: "text_pair", label: "Second text", first: "" };

/** What can be done with a model. `signature` names the one that answers, of those it has. */
const TASKS = [
  {
    id: "fill", title: "Fill in [MASK]",
    signature: (has, values) => (values.text_pair ? "fill_mask_pair" : "fill_mask"),
    fields: () => [TEXT, { ...PAIR, label: "Second text (may be empty)" }],
    check: ({ text, text_pair: pair }) => (text + pair).includes("[MASK]") ? "" :
      "There is no [MASK] in the text. Write [MASK] in place of the word to predict.",
    show: showFillings,
  },
  {
    id: "next", title: "Next sentence",
    signature: () => "next_sentence",
    fields: () => [
      { ...TEXT, first: "He opened the door." }, { ...PAIR, first: "The room was empty." }],
    check: ({ text_pair: pair }) => (pair.trim() ? "" : "Type a second text."),
    show: (answer) => [makeBars([["follows", answer.is_next_probability],
      ["does not follow", 1 - answer.is_next_probability]])],
  },
  {
    id: "classify", title: "Classify",
    signature: (has) => taskForm(has)?.signature,
    fields: (inputs) => {
      const { texts: [first, second] = [], view } = taskForm(state.signatures) ?? {};
      if (view === "passage") {
        return [{ ...TEXT, label: "Question", first },
          { ...PAIR, label: "Passage", rows: 8, first: second }];
      }
      return [{ ...TEXT, first }, ...("text_pair" in inputs ? [{ ...PAIR, first: second }] : [])];
    },
    check: () => "",
    show: (answer, answers, values) =>
      VIEWS[taskForm(state.signatures).view ?? "values"](answer, answers, values),
  },
  {
    id: "search", title: "Search",
    signature: (has) => ("rerank" in has ? "rerank" : "embed"),
    fields: () => [{ ...TEXT, label: "Search for", first: "a barking dog" },
      { name: "lines", label: "Lines to search", rows: 8,
        first: "The hound growled at a kitten.\nShares fell on Monday.\nIt rained all day." }],
    rows: ({ text, lines: searched }) => ("rerank" in state.signatures ?
      [{ text, passages: lines(searched) }] :
      [text, ...lines(searched)].map((line) => ({ text: line }))),
    check: ({ lines: searched }) => {
      if (!lines(searched).length) return "Paste the lines to search, one text per line.";
      return lines(searched).length > MOST_SEARCHED ? `Paste at most ${MOST_SEARCHED} lines.` : "";
    },
    show: showFound,
  },
  {
    id: "compare", title: "Compare",
    signature: () => "embed",
    fields: () => [{ name: "text", label: "Texts, one per line", rows: 5,
      first: "The dog barked at the cat.\nA hound growled at a kitten.\nShares fell on Monday." }],
    rows: ({ text }) => lines(text).map((line) => ({ text: line })),
    check: ({ text }) => {
      if (lines(text).length < 2) return "Type at least two texts, one per line.";
      return lines(text).length > MOST_COMPARED ? `Type at most ${MOST_COMPARED} texts, one per line.` : "";
    },
    show: showSimilarities,
  },
  {
    id: "attention", title: "Attention",
    signature: () => "attention",
    fields: () => [{ ...TEXT, first: "I love my dog." },
      { ...PAIR, label: "Second text (may be empty)", first: "I love my cat." }],
    check: () => "",
    show: showAttention,
  },
  {
    id: "any", title: "Any signature",
    signature: () => byId("signature").value,
    fields: (inputs) => Object.entries(inputs).sort().map(([name, { dtype }]) => ({
      name, isJson: dtype !== "DT_STRING", first: dtype === "DT_STRING" ? "" : "[2, 3]",
      label: dtype === "DT_STRING" ? name : `${name}, as JSON`,
    })),
    check: () => "",
    show: (answer) => VIEWS.values(answer),
  },
];

/** How the answer to a task is shown, by the `view` that the server names. */
const VIEWS = {
  classes: showClasses,
  number: ({ score }) => [make("h3", { textContent: "Score" }),
    make("p", { textContent: score.toPrecision(4) })],
  passage: showPassage,
  values: (answer) => [
    make("pre", { className: "scrolls", textContent: JSON.stringify(answer, null, 1) })],
};

const state = { task: TASKS[0], signatures: {}, tasks: [], typed: {}, asked: null, figure: null };

/** Return how to ask what a model was tuned for; of one that was not, how a classifier is asked. */
function taskForm(has) {
  return state.tasks.find(({ signature }) => signature in has) ?? state.tasks[0];
}

function byId(id) {
  return document.getElementById(id);
}

function lines(text) {
  return text.split("\n").map((line) => line.trim()).filter(Boolean);
}

// ---- answers

/** Return rows of a name, a bar and a probability. */
function makeBars(rows) {
  const grid = make("div", { className: "answers" });
  for (const [name, share] of rows) {
    const bar = make("span", { className: "bar" });
    bar.style.width = `${Math.max(0.3, 100 * share)}%`;
    grid.append(make("span", { className: "name", textContent: name }), make("span", {}, bar),
      make("span", { className: "value", textContent: fixed(share, 4) }));
  }
  return grid;
}

function showFillings({ tokens, probabilities, positions }) {
  const masks = positions.map((position, index) => index).filter((index) => positions[index] >= 0);
  if (!masks.length) return [make("p", {}, "The text was truncated before the [MASK].")];
  return masks.map((mask, number) => make("section", {},
    make("h3", { textContent: masks.length > 1 ? `[MASK] number ${number + 1}` : "[MASK]" }),
    makeBars(tokens[mask].map((token, rank) => [token, probabilities[mask][rank]]))));
}

function showClasses(answer) {
  const classes = answer.labels.map((label, index) => [label, answer.probabilities[index]]);
  return [makeBars(classes.sort((a, b) => b[1] - a[1]))];
}

/** Return the passage with the answer marked; JavaScript counts in units of UTF-16. */
function showPassage({ answer, score, start_utf16: start, end_utf16: end }, _, values) {
  const passage = values.text_pair;
  return [make("p", { className: "passage" }, passage.slice(0, start),
    make("mark", { textContent: passage.slice(start, end) }), passage.slice(end)),
  make("p", { textContent: `${answer ? "" : "No answer. "}Score: ${score.toPrecision(4)}` })];
}

/** Return a function that gives the cosine of two answers' vectors; a model that was not tuned for
 * vectors has the mean of its positions. */
function cosines(answers) {
  const unit = answers.map(({ vector, mean }) => {
    const length = Math.hypot(...(vector ?? mean)) || 1;
    return (vector ?? mean).map((number) => number / length);
  });
  return (a, b) => unit[a].reduce((sum, number, index) => sum + number * unit[b][index], 0);
}

/** Return the lines, the most relevant to the query first: by the scores of a model of pairs, or by
 * the cosines of the vectors. */
function showFound(answer, answers, values) {
  const cosine = answer.scores ? null : cosines(answers);
  const found = lines(values.lines).map((line, index) => [
    line, cosine ? cosine(0, index + 1) : answer.scores[index]]);
  return [makeBars(found.sort((a, b) => b[1] - a[1]))];
}

/** Return a table of how near each text is to each other: the cosine of their vectors. */
function showSimilarities(_, answers, values) {
  const texts = lines(values.text);
  const cosine = cosines(answers);
  const head = make("tr", {}, make("th"));
  texts.forEach((_text, column) => head.append(make("th", { textContent: column + 1 })));
  const body = make("tbody");
  texts.forEach((text, row) => {
    const line = make("tr", {}, make("td", { className: "long", textContent: `${row + 1}. ${text}` }));
    texts.forEach((_text, column) => {
      const cell = make("td", { textContent: fixed(cosine(row, column), 3).replace("-", "−") });
      cell.style.setProperty("--tone", cosine(row, column) < 0 ? "var(--takes)" : "var(--accent)");
      cell.style.setProperty("--share", `${(70 * Math.abs(cosine(row, column))).toFixed(1)}%`);
      line.append(cell);
    });
    body.append(line);
  });
  const vectors = "vector" in answers[0] ? "vectors" : "mean vectors";
  return [make("h3", { textContent: `Cosine similarity of the ${vectors}` }),
    make("div", { className: "scrolls" }, make("table", {}, make("thead", {}, head), body))];
}

function showAttention({ tokens, scores }) {
  const [layers, heads] = [scores.length, scores[0].length];
  const levels = 255;
  const bytes = Uint8Array.from(scores.flat(3), (share) => Math.round(Math.sqrt(share) * levels));
  const words = [];
  tokens.forEach((token, index) => {
    if (token.length > 2 && token.startsWith("##")) words.at(-1).push(index);
    else words.push([index]);
  });
  const firstEnd = tokens.indexOf("[SEP]");
  const attention = new Attention({
    labels: tokens.map((token) => (token.length > 2 ? token.replace(/^##/, "") : token)),
    words,
    isSpecial: tokens.map((token) => ["[CLS]", "[SEP]", "[MASK]"].includes(token)),
    segments: tokens.map((_token, index) => Number(index > firstEnd)),
    layers,
    heads,
    attention: { levels, bytes },
  });
  const root = make("div");
  const { layer, head, view } = state.figure ?? {};
  const first = layer < layers && (head === MEAN || head < heads) ? { layer, head, view } : {};
  queueMicrotask(() => { state.figure = new AttentionFigure(root, attention, first); });
  return [root];
}

// ---- asking

async function getJson(url, options) {
  let response;
  try {
    response = await fetch(url, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Check that clozeline serve is running. " +
      "Your text is kept.");
  }
  const content = await response.json().catch(() => ({}));
  if (response.ok) return content;
  throw new Error(`The server refused the request: ${content.error ?? `status ${response.status}`}`);
}

function modelUrl() {
  const version = byId("version").value;
  const name = encodeURIComponent(byId("model").value);
  return `/v1/models/${name}${version ? `/versions/${version}` : ""}`;
}

/** Return a word as a shell reads it. */
function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** Return what is typed: by field its text, or the value that its JSON says. */
function typedValues() {
  const values = {};
  for (const field of byId("fields").querySelectorAll("textarea")) {
    values[field.name] = field.value;
    if (!field.dataset.isJson) continue;
    try {
      values[field.name] = JSON.parse(field.value);
    } catch {
      throw new Error(`${field.name} is not valid JSON; an example is [2, 3].`);
    }
  }
  return values;
}

/** Return what is wrong with what is typed, in a sentence, or nothing. */
function problem(values, signature) {
  if (!byId("model").value) return "No model is loaded. Export one into the served folder.";
  if (!(signature in state.signatures)) {
    const has = signatureNames().join(", ");
    return `The model ${byId("model").value} has no signature ${signature}, because it was not trained or ` +
      `tuned for it. Its signatures: ${has}.`;
  }
  const isEmpty = typeof values.text === "string" && !values.text.trim();
  return isEmpty ? "Type a text." : state.task.check(values);
}

/** Ask what is typed; an older question that is still on its way is given up. */
async function ask() {
  state.asked?.abort();
  state.asked = null;
  let values;
  try {
    values = typedValues();
  } catch (error) {
    showHint(error.message);
    return;
  }
  const signature = state.task.signature(state.signatures, values);
  const wrong = problem(values, signature);
  if (wrong) {
    showHint(wrong);
    return;
  }
  const { inputs } = state.signatures[signature];
  const needed = (row) => Object.fromEntries(Object.entries(row).filter(([name]) => name in inputs));
  const instances = (state.task.rows?.(values) ?? [values]).map(needed);
  const body = JSON.stringify({ signature_name: signature, instances });
  const url = `${modelUrl()}:predict`;
  const asked = (state.asked = new AbortController());
  try {
    const { predictions } = await getJson(url, {
      method: "POST", body, signal: asked.signal, headers: { "Content-Type": "application/json" },
    });
    if (state.asked !== asked) return;
    showAnswer(predictions, values, signature);
    byId("curl").textContent = `curl -d ${quoted(body)} ${quoted(location.origin + url)}`;
  } catch (error) {
    if (error.name !== "AbortError" && state.asked === asked) showHint(error.message);
  }
}

function showHint(text) {
  byId("hint").textContent = text;
  byId("hint").hidden = !text;
  if (text) byId("answer-card").hidden = true;
}

function showAnswer(predictions, values, signature) {
  const wasCut = predictions.some((each) => each.truncated);
  showHint("");
  byId("hint").hidden = !wasCut;
  byId("hint").textContent =
    wasCut ? "The text is longer than the model's maximum and was truncated." : "";
  byId("answer-card").hidden = false;
  // An answer of one output comes without its name.
  const names = Object.keys(state.signatures[signature].outputs);
  const named = predictions.map((each) => (names.length === 1 ? { [names[0]]: each } : each));
  byId("answer").replaceChildren(...state.task.show(named[0], named, values));
  byId("asked").textContent = `Signature: ${signature}. The same request in a terminal:`;
}

// ---- the form

let pause;
function askSoon() {
  clearTimeout(pause);
  pause = setTimeout(ask, PAUSE_MS);
}

/** Make the fields of the task; what was typed before stays. */
function showFields() {
  const signature = state.task.signature(state.signatures, state.typed);
  const inputs = state.signatures[signature]?.inputs ?? {};
  byId("signature-row").hidden = state.task.id !== "any";
  byId("fields").replaceChildren(...state.task.fields(inputs).map((field) => {
    const key = `${state.task.id} ${field.name}`;
    const area = make("textarea", { name: field.name, rows: field.rows ?? 2, spellcheck: false,
      value: state.typed[key] ?? field.first });
    if (field.isJson) area.dataset.isJson = "yes";
    area.addEventListener("input", (event) => {
      state.typed[key] = area.value;
      if (!event.isComposing) askSoon();
    });
    area.addEventListener("compositionend", askSoon);
    return make("label", { className: "field" }, field.label, area);
  }));
  ask();
}

/** Return the names of the signatures that a person may ask for. */
function signatureNames() {
  return Object.keys(state.signatures).filter((name) => !name.startsWith("__")).sort();
}

/** Begin with something that the model can do. */
function chooseTask() {
  const can = TASKS.find((task) => task.signature(state.signatures, {}) in state.signatures);
  if (!can) return;
  state.task = can;
  byId("tasks").querySelector(`input[value=${can.id}]`).checked = true;
}

/** Ask which signatures the chosen version has. */
async function showSignatures() {
  try {
    const { metadata } = await getJson(`${modelUrl()}/metadata`);
    state.signatures = metadata.signature_def.signature_def;
  } catch (error) {
    state.signatures = {};
    showHint(error.message);
    return;
  }
  byId("signature").replaceChildren(
    ...signatureNames().map((name) => make("option", { value: name, textContent: name })));
  if (!state.isChosen) chooseTask();
  showFields();
}

function showVersions() {
  const model = state.models.find(({ name }) => name === byId("model").value);
  const versions = model ? model.versions : [];
  byId("version").replaceChildren(
    make("option", { value: "", textContent: versions.length ? `newest (${versions[0]})` : "none" }),
    ...versions.map((version) => make("option", { value: version, textContent: version })));
  if (model) showSignatures();
  else showHint(problem({}, ""));
}

async function main() {
  byId("tasks").append(makeChoice("task", TASKS.map(({ id, title }) => [id, title]), TASKS[0].id,
    (id) => {
      state.isChosen = true;
      state.task = TASKS.find((task) => task.id === id);
      showFields();
    }));
  byId("form").addEventListener("submit", (event) => event.preventDefault());
  byId("model").addEventListener("change", showVersions);
  byId("version").addEventListener("change", showSignatures);
  byId("signature").addEventListener("change", showFields);
  byId("copy").addEventListener("click", async () => {
    await navigator.clipboard.writeText(byId("curl").textContent);
    byId("copy").textContent = "copied";
  });
  try {
    ({ models: state.models, tasks: state.tasks } = await getJson("/playground/models"));
  } catch (error) {
    showHint(error.message);
    return;
  }
  byId("model").replaceChildren(
    ...state.models.map(({ name }) => make("option", { value: name, textContent: name })));
  showVersions();
}

main();
