"use strict";

/* Attention of every layer and head: as lines between words, as a heat map, and all heads at a
   glance. Texts get into the page by textContent and fillText only: they are letters, never code. */

const MEAN = "mean"; // of a layer's heads
const ROLLOUT = "rollout"; // through all layers
const FAINT = 0.02; // lines below this share of the strongest one are not drawn
const STROKES = 12; // strengths of lines that are told apart: each is one stroke
const GAP = 4; // pixels between the small maps

/** Return a new element with these properties and children. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  Object.assign(element, properties);
  element.append(...children);
  return element;
}

/** Return a number with this many decimals; a rounded zero has no sign. */
function fixed(value, decimals) {
  return Number(value.toFixed(decimals)).toFixed(decimals);
}

/** Return a select with these [value, text] options. */
function makeSelect(options, chosen, onChange) {
  const select = make("select");
  for (const [value, text] of options) {
    select.append(make("option", { value, textContent: text, selected: value === String(chosen) }));
  }
  select.addEventListener("change", () => onChange(select.value));
  return select;
}

/** Return radio buttons that look like one switch. */
function makeChoice(name, options, chosen, onChange) {
  const box = make("span", { className: "choice", role: "radiogroup" });
  for (const [value, text] of options) {
    const radio = make("input", { type: "radio", name, value, checked: value === chosen });
    radio.addEventListener("change", () => onChange(value));
    box.append(make("label", {}, radio, text));
  }
  return box;
}

/** Return shares [L, L] as a share of the row's word in the column's word: sum, and mean of rows. */
function groupShares(shares, length, words) {
  const grouped = new Float32Array(words.length ** 2);
  words.forEach((rows, reader) => {
    words.forEach((columns, read) => {
      let sum = 0;
      for (const row of rows) for (const column of columns) sum += shares[row * length + column];
      grouped[reader * words.length + read] = sum / rows.length;
    });
  });
  return grouped;
}

/** Return a share in words. */
function percent(share) {
  return `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
}

/** What is to be shown: shares by layer and head, as levels of their square roots. */
class Attention {
  /**
   * @param {object} data
   * @param {string[]} data.labels a piece's text, L of them
   * @param {number[][]} data.words pieces by word
   * @param {boolean[]} data.isSpecial whether a piece is [CLS], [SEP] or [MASK]
   * @param {number[]} data.segments 0 or 1 for each piece
   * @param {number} data.layers
   * @param {number} data.heads
   * @param {{levels: number, bytes: Uint8Array}} data.attention [layers, heads, L, L]
   * @param {{levels: number, bytes: Uint8Array}} [data.rollout] [L, L]
   */
  constructor(data) {
    Object.assign(this, data);
    this.length = data.labels.length;
  }

  /** Return the shares [L, L] of a layer (or ROLLOUT) and head (or MEAN). */
  shares(layer, head) {
    if (layer === ROLLOUT) return this.read(this.rollout, 0);
    if (head !== MEAN) return this.read(this.attention, layer * this.heads + head);
    const mean = new Float32Array(this.length ** 2);
    for (let each = 0; each < this.heads; each += 1) {
      this.read(this.attention, layer * this.heads + each).forEach((share, at) => {
        mean[at] += share / this.heads;
      });
    }
    return mean;
  }

  read({ levels, bytes }, index) {
    const size = this.length ** 2;
    const shares = new Float32Array(size);
    for (let at = 0; at < size; at += 1) shares[at] = (bytes[index * size + at] / levels) ** 2;
    return shares;
  }
}

/** The figure with its controls. */
class AttentionFigure {
  /**
   * @param {HTMLElement} root is filled
   * @param {Attention} attention
   * @param {{layer?: number, head?: number, view?: string}} first what is shown at first
   */
  constructor(root, attention, first = {}) {
    this.attention = attention;
    this.view = first.view ?? "lines";
    this.layer = first.layer ?? 0;
    this.head = first.head ?? 0;
    this.hasPieces = attention.words.length < attention.length;
    this.wholeWords = this.hasPieces;
    this.hidesSpecial = false;
    this.pointed = null; // {side, index} or {row, column}, whatever the view points at
    this.figure = make("div", { className: "figure" });
    this.status = make("p", { className: "status small quiet", ariaLive: "polite" });
    root.classList.add("attention");
    root.replaceChildren(this.makeControls(), this.figure, this.status);
    this.show();
    this.followWindow(root);
  }

  /** Draw again when colours or width change, for as long as the figure is in the page. */
  followWindow(root) {
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    const observer = new ResizeObserver(() => follow(this.figure.clientWidth !== this.drawnWidth));
    const recolour = () => follow(true);
    const follow = (isStale) => {
      if (!root.isConnected) {
        observer.disconnect();
        scheme.removeEventListener("change", recolour);
      } else if (isStale) this.show();
    };
    scheme.addEventListener("change", recolour);
    observer.observe(root);
  }

  // ---- controls

  makeControls() {
    const number = (count, word) =>
      Array.from({ length: count }, (_, index) => [String(index), `${word} ${index + 1}`]);
    const { layers, heads, rollout } = this.attention;
    const choices = number(layers, "layer");
    if (rollout) choices.push([ROLLOUT, "all layers (rollout)"]);
    this.layerSelect = makeSelect(choices, this.layer, (value) => {
      this.layer = value === ROLLOUT ? ROLLOUT : Number(value);
      this.show();
    });
    this.headSelect = makeSelect(
      [...number(heads, "head"), [MEAN, "mean of the heads"]], this.head, (value) => {
        this.head = value === MEAN ? MEAN : Number(value);
        this.show();
      });
    this.layerSelect.setAttribute("aria-label", "Layer");
    this.headSelect.setAttribute("aria-label", "Head");
    const views = [["lines", "Lines"], ["map", "Heat map"], ["heads", "All heads"]];
    this.choice = makeChoice("view", views, this.view, (view) => {
      this.view = view;
      this.show();
    });
    const controls = make("div", { className: "controls" },
      this.choice, this.layerSelect, this.headSelect);
    if (this.hasPieces) controls.append(this.makeCheck("whole words", "wholeWords"));
    controls.append(this.makeCheck("hide [CLS] and [SEP]", "hidesSpecial"));
    return controls;
  }

  makeCheck(text, property) {
    const box = make("input", { type: "checkbox", checked: this[property] });
    box.addEventListener("change", () => {
      this[property] = box.checked;
      this.show();
    });
    return make("label", {}, box, text);
  }

  pick(layer, head) {
    this.layer = layer;
    this.head = head;
    this.layerSelect.value = String(layer);
    this.headSelect.value = String(head);
  }

  // ---- what is shown now

  /** Return labels, shares [N, N] and what else the views need of the words that are shown. */
  current(layer = this.layer, head = this.head) {
    const { labels, words, isSpecial, segments, length } = this.attention;
    const all = this.wholeWords ? words : labels.map((_, index) => [index]);
    const isMark = (piece) => isSpecial[piece] && ["[CLS]", "[SEP]"].includes(labels[piece]);
    const groups = this.hidesSpecial ? all.filter(([piece]) => !isMark(piece)) : all;
    return {
      labels: groups.map((group) => group.map((piece) => labels[piece]).join("")),
      segments: groups.map(([piece]) => segments[piece]),
      shares: groupShares(this.attention.shares(layer, head), length, groups),
      size: groups.length,
    };
  }

  show() {
    this.headSelect.disabled = this.layer === ROLLOUT;
    this.pointed = null;
    this.now = this.current();
    this.largest = this.now.shares.reduce((most, share) => Math.max(most, share), 1e-9);
    const hadFocus = this.figure.contains(document.activeElement);
    this.figure.replaceChildren();
    ({ lines: () => this.showLines(), map: () => this.showMap(), heads: () => this.showHeads() })[
      this.view
    ]();
    if (hadFocus) this.figure.querySelector("[tabindex]").focus();
  }

  tell(text) {
    this.status.textContent = text;
  }

  colour(name) {
    return getComputedStyle(this.figure).getPropertyValue(name).trim();
  }

  /** Return a canvas of a size in CSS pixels, and its context. */
  makeCanvas(width, height) {
    const scale = Math.min(2, devicePixelRatio || 1);
    const canvas = make("canvas", { width: width * scale, height: height * scale });
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const context = canvas.getContext("2d");
    context.scale(scale, scale);
    this.drawnWidth = this.figure.clientWidth;
    return [canvas, context];
  }

  // ---- lines between words

  showLines() {
    const { labels, segments, size } = this.now;
    const row = size > 96 ? 20 : 26;
    const box = make("div", { className: "lines" });
    box.style.setProperty("--row", `${row}px`);
    this.lists = ["reads", "read"].map((side) => this.makeList(side, labels, segments));
    const middle = make("div");
    box.append(this.lists[0], middle, this.lists[1]);
    this.figure.append(box);
    const [canvas, context] = this.makeCanvas(middle.clientWidth, size * row);
    middle.append(canvas);
    this.drawLines = () => this.strokeLines(context, middle.clientWidth, row);
    this.drawLines();
    this.tell("Each word on the left attends to the words on the right. Point at a word, or select one " +
      "with the arrow keys, to see only its lines.");
  }

  makeList(side, labels, segments) {
    const name = side === "reads" ? "words that attend (queries)" : "words attended to (keys)";
    const list = make("ol", { className: side, tabIndex: 0, role: "listbox", ariaLabel: name });
    labels.forEach((label, index) => {
      const item = make("li", { textContent: label, role: "option", title: label });
      if (segments[index]) item.classList.add("second");
      item.addEventListener("pointerenter", () => this.pointAt(side, index));
      list.append(item);
    });
    list.addEventListener("pointerleave", () => this.pointAt(side, null));
    list.addEventListener("keydown", (event) => {
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const here = this.pointed && this.pointed.side === side ? this.pointed.index : -1;
      const next = here < 0 && step < 0 ? labels.length - 1 : here + step;
      this.pointAt(side, Math.min(labels.length - 1, Math.max(0, next)));
      list.children[this.pointed.index].scrollIntoView({ block: "nearest" });
    });
    return list;
  }

  pointAt(side, index) {
    this.pointed = index === null ? null : { side, index };
    const { size, shares, labels } = this.now;
    const share = (other) =>
      side === "reads" ? shares[index * size + other] : shares[other * size + index];
    this.lists.forEach((list) => {
      const isOther = !list.classList.contains(side);
      [...list.children].forEach((item, each) => {
        item.classList.toggle("chosen", index !== null && !isOther && each === index);
        const strength = index !== null && isOther ? 80 * share(each) ** 0.5 : 0;
        item.style.setProperty("--share", `${strength.toFixed(1)}%`);
      });
    });
    this.drawLines();
    if (index === null) return;
    const strongest = labels.map((label, each) => [share(each), label]);
    strongest.sort((a, b) => b[0] - a[0]);
    const list = strongest.slice(0, 5).map(([each, label]) => `${label} ${percent(each)}`);
    this.tell(`${labels[index]} ${side === "reads" ? "attends to" : "is attended to by"}: ${list.join(", ")}`);
  }

  strokeLines(context, width, row) {
    const { shares, size } = this.now;
    const strokes = Array.from({ length: STROKES + 1 }, () => null);
    const only = this.pointed;
    for (let reader = 0; reader < size; reader += 1) {
      if (only && only.side === "reads" && only.index !== reader) continue;
      for (let read = 0; read < size; read += 1) {
        if (only && only.side === "read" && only.index !== read) continue;
        const strength = shares[reader * size + read] / this.largest;
        if (strength < FAINT) continue;
        const path = (strokes[Math.ceil(strength * STROKES)] ??= new Path2D());
        path.moveTo(2, (reader + 0.5) * row);
        path.lineTo(width - 2, (read + 0.5) * row);
      }
    }
    context.clearRect(0, 0, width, size * row);
    context.strokeStyle = this.colour("--accent");
    strokes.forEach((path, at) => {
      if (!path) return;
      context.globalAlpha = at / STROKES;
      context.lineWidth = 0.6 + (2.4 * at) / STROKES;
      context.stroke(path);
    });
    context.globalAlpha = 1;
  }

  // ---- heat map

  showMap() {
    const { labels, size } = this.now;
    const space = Math.min(this.figure.clientWidth, 900);
    const widest = Math.min(this.widestLabel(labels), 110, space / 4);
    let cell = Math.floor((space - widest) / size);
    const hasLabels = cell >= 11;
    const margin = hasLabels ? widest : 0;
    cell = hasLabels ? Math.min(cell, 34) : Math.max(2, Math.min(10, Math.floor(space / size)));
    const [canvas, context] = this.makeCanvas(margin + cell * size, margin + cell * size);
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", "Heat map: rows attend to columns");
    const scroller = make("div", { className: "scrolls" }, canvas);
    this.figure.append(scroller);
    const draw = () => {
      context.clearRect(0, 0, canvas.width, canvas.height);
      if (hasLabels) this.drawLabels(context, labels, margin, cell);
      context.drawImage(this.mapImage(this.now, this.largest), margin, margin,
        cell * size, cell * size);
      this.drawPointed(context, margin, cell);
    };
    context.imageSmoothingEnabled = false;
    this.listenOnMap(canvas, margin, cell, draw);
    draw();
    this.tell("Rows (queries) attend to columns (keys); a stronger colour means more attention. " +
      "Point at a cell, or use the arrow keys.");
  }

  /** Return the margin, in pixels, that the labels of a heat map need. */
  widestLabel(labels) {
    const context = make("canvas").getContext("2d");
    context.font = "14px system-ui, sans-serif";
    return 10 + Math.max(...labels.map((label) => Math.ceil(context.measureText(label).width)));
  }

  /** Return a picture of one pixel a pair of words. */
  mapImage({ shares, size }, largest) {
    const canvas = make("canvas", { width: size, height: size });
    const context = canvas.getContext("2d");
    context.fillStyle = this.colour("--accent");
    context.fillRect(0, 0, size, size);
    const image = context.getImageData(0, 0, size, size);
    shares.forEach((share, at) => {
      image.data[4 * at + 3] = 255 * Math.min(1, share / largest) ** 0.5;
    });
    context.putImageData(image, 0, 0);
    return canvas;
  }

  drawLabels(context, labels, margin, cell) {
    context.fillStyle = this.colour("--ink");
    context.font = `${Math.min(14, cell - 1)}px system-ui, sans-serif`;
    context.textBaseline = "middle";
    context.textAlign = "right";
    labels.forEach((label, index) => {
      context.fillText(label, margin - 6, margin + (index + 0.5) * cell, margin - 8);
    });
    context.textAlign = "left";
    labels.forEach((label, index) => {
      context.save();
      context.translate(margin + (index + 0.5) * cell, margin - 6);
      context.rotate(-Math.PI / 2);
      context.fillText(label, 0, 0, margin - 8);
      context.restore();
    });
  }

  drawPointed(context, margin, cell) {
    if (!this.pointed) return;
    const { row, column } = this.pointed;
    context.strokeStyle = this.colour("--ink");
    context.lineWidth = 2;
    context.strokeRect(margin + column * cell, margin + row * cell, cell, cell);
  }

  listenOnMap(canvas, margin, cell, draw) {
    const { labels, size, shares } = this.now;
    const point = (row, column) => {
      const inside = (index) => index >= 0 && index < size;
      this.pointed = inside(row) && inside(column) ? { row, column } : null;
      draw();
      if (this.pointed) {
        const share = percent(shares[row * size + column]);
        this.tell(`${labels[row]} attends to ${labels[column]}: ${share}`);
      }
    };
    canvas.addEventListener("pointermove", (event) => {
      point(...[event.offsetY, event.offsetX].map((at) => Math.floor((at - margin) / cell)));
    });
    canvas.addEventListener("keydown", (event) => {
      const steps = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] };
      const step = steps[event.key];
      if (!step) return;
      event.preventDefault();
      const { row, column } = this.pointed ?? { row: 0, column: 0 };
      const clamp = (index) => Math.min(size - 1, Math.max(0, index));
      point(...(this.pointed ? [clamp(row + step[0]), clamp(column + step[1])] : [0, 0]));
    });
  }

  // ---- all heads

  showHeads() {
    const { layers, heads } = this.attention;
    const left = 30;
    const room = Math.floor((this.figure.clientWidth - left) / heads) - GAP;
    const side = Math.max(14, Math.min(96, room));
    const pitch = side + GAP;
    const [canvas, context] = this.makeCanvas(left + heads * pitch, 22 + layers * pitch);
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", "Heat maps of all heads: one row per layer, one column per head");
    this.figure.append(make("div", { className: "scrolls" }, canvas));
    const maps = make("canvas", { width: canvas.width, height: canvas.height });
    this.drawMaps(maps, canvas, left, side);
    const draw = () => {
      context.clearRect(0, 0, canvas.width, canvas.height);
      this.drawNumbers(context, left, pitch, side);
      context.drawImage(maps, 0, 0, canvas.clientWidth, canvas.clientHeight);
      if (this.layer === ROLLOUT || this.head === MEAN) return;
      context.strokeStyle = this.colour("--ink");
      context.lineWidth = 2;
      context.strokeRect(left + this.head * pitch - 2, 20 + this.layer * pitch, side + 4, side + 4);
    };
    this.listenOnHeads(canvas, left, pitch, draw);
    draw();
    this.tell("One row per layer, one column per head. Click one, or select it with the arrow keys and " +
      "press Enter, to enlarge it.");
  }

  drawMaps(maps, canvas, left, side) {
    const context = maps.getContext("2d");
    const scale = canvas.width / canvas.clientWidth;
    context.scale(scale, scale);
    for (let layer = 0; layer < this.attention.layers; layer += 1) {
      for (let head = 0; head < this.attention.heads; head += 1) {
        const one = this.current(layer, head);
        const largest = one.shares.reduce((most, share) => Math.max(most, share), 1e-9);
        const [x, y] = [left + head * (side + GAP), 22 + layer * (side + GAP)];
        context.drawImage(this.mapImage(one, largest), x, y, side, side);
        context.strokeStyle = this.colour("--line");
        context.strokeRect(x - 0.5, y - 0.5, side + 1, side + 1);
      }
    }
  }

  drawNumbers(context, left, pitch, side) {
    const { layers, heads } = this.attention;
    context.fillStyle = this.colour("--quiet");
    context.font = "12px system-ui, sans-serif";
    context.textBaseline = "middle";
    context.textAlign = "center";
    for (let head = 0; head < heads; head += 1) {
      context.fillText(head + 1, left + head * pitch + side / 2, 10);
    }
    for (let layer = 0; layer < layers; layer += 1) {
      context.fillText(layer + 1, 12, 22 + layer * pitch + side / 2);
    }
  }

  listenOnHeads(canvas, left, pitch, draw) {
    const { layers, heads } = this.attention;
    const open = () => {
      this.choice.querySelector("input[value=map]").click();
      this.layerSelect.focus();
    };
    canvas.addEventListener("click", (event) => {
      const [head, layer] = [event.offsetX - left, event.offsetY - 22].map((at) =>
        Math.floor(at / pitch));
      if (head < 0 || layer < 0 || head >= heads || layer >= layers) return;
      this.pick(layer, head);
      open();
    });
    canvas.addEventListener("keydown", (event) => {
      if (event.key === "Enter") open();
      const steps = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] };
      const step = steps[event.key];
      if (!step) return;
      event.preventDefault();
      const from = [this.layer === ROLLOUT ? 0 : this.layer, this.head === MEAN ? 0 : this.head];
      this.pick(
        Math.min(layers - 1, Math.max(0, from[0] + step[0])),
        Math.min(heads - 1, Math.max(0, from[1] + step[1])));
      draw();
      this.tell(`layer ${this.layer + 1}, head ${this.head + 1}`);
    });
  }
}
