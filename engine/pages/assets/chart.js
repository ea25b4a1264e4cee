// Small charts on a canvas: lines over the last minutes with axes and a value under the pointer, and
// the areas of one drop. What a chart shows now also stands below it as text, for whoever cannot see it.

const GRID = [0.5, 1, 2, 5]; // steps of the axis, times a power of ten
const SPAN_LEAST_MS = 60_000; // until more is known
const INSET = { left: 46, right: 10, top: 10, bottom: 20 };

// A canvas made as sharp as its screen: its pen and its size in CSS pixels; null while it is hidden.
function pen(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas, scale = devicePixelRatio || 1;
  if (!width || !height) return null;
  const [wide, high] = [Math.round(width * scale), Math.round(height * scale)];
  if (canvas.width !== wide || canvas.height !== high) Object.assign(canvas, { width: wide, height: high });
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

// The page's colours are its style sheet's, so that light and dark are told in one place.
const colour = (element, name) => getComputedStyle(element).getPropertyValue(`--${name}`).trim();

// Four or five round steps that reach the highest value.
function steps(highest) {
  const rough = highest / 4, power = 10 ** Math.floor(Math.log10(rough));
  const step = GRID.map((each) => each * power).find((each) => each >= rough) ?? 10 * power;
  return Array.from({ length: Math.ceil(highest / step) + 1 }, (_, index) => index * step);
}

// Redrawn when its size or the colours change.
const drawn = new Map();
const resized = new ResizeObserver((entries) => entries.forEach(({ target }) => drawn.get(target)?.()));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn.forEach((draw) => draw()));

// `figure` holds a caption with a <small>, a canvas and an empty <dl>. `format` makes a value text;
// `floor`: the axis reaches at least so far. `show({ at: [ms], series: [{ name, colour, values }] })`;
// a value that is null is a gap.
export class Chart {
  constructor(figure, { format, floor }) {
    Object.assign(this, { format, floor, span: SPAN_LEAST_MS });
    [this.canvas, this.legend, this.when] = ["canvas", "dl", "small"].map((each) => figure.querySelector(each));
    this.title = figure.querySelector("figcaption").textContent.trim();
    this.told = { at: [], series: [] };
    this.pointed = null; // index of the moment under the pointer
    this.canvas.addEventListener("pointermove", (event) => this.point(event.offsetX));
    this.canvas.addEventListener("pointerleave", () => this.point(null));
    drawn.set(this.canvas, () => this.draw());
    resized.observe(this.canvas);
  }

  show(told) {
    this.told = told;
    this.draw();
    this.write();
  }

  point(x) {
    const { at } = this.told;
    const moment = x === null || !this.x ? null : at.findLastIndex((each) => this.x(each) <= x + 2);
    this.pointed = moment === -1 ? null : moment;
    this.draw();
    this.write();
  }

  draw() {
    const ready = pen(this.canvas);
    if (!ready) return;
    const { context, width, height } = ready, { at, series } = this.told, end = at.at(-1) ?? 0;
    const values = series.flatMap((each) => each.values).filter((value) => value !== null);
    const marks = steps(Math.max(this.floor, ...values));
    this.span = Math.max(SPAN_LEAST_MS, end - (at[0] ?? end));
    const [right, bottom] = [width - INSET.right, height - INSET.bottom];
    this.x = (moment) => right - ((end - moment) / this.span) * (right - INSET.left);
    const y = (value) => bottom - (value / marks.at(-1)) * (bottom - INSET.top);
    this.axes(context, marks, y, right, bottom);
    if (!values.some(Boolean)) this.empty(context, (INSET.left + right) / 2, bottom / 2);
    context.save();
    context.beginPath();
    context.rect(INSET.left, 0, right - INSET.left + 2, height);
    context.clip();
    for (const each of series) this.line(context, each, y);
    if (this.pointed !== null && this.pointed < at.length) this.cursor(context, y, bottom);
    context.restore();
  }

  empty(context, x, y) {
    context.font = "13px system-ui, sans-serif";
    context.textAlign = "center";
    context.fillText("nothing yet", x, y);
  }

  axes(context, marks, y, right, bottom) {
    context.font = "11px system-ui, sans-serif";
    context.fillStyle = colour(this.canvas, "quiet");
    context.strokeStyle = colour(this.canvas, "rule");
    context.lineWidth = 1;
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const mark of marks) {
      const level = Math.round(y(mark)) + 0.5;
      context.beginPath();
      context.moveTo(INSET.left, level);
      context.lineTo(right, level);
      context.stroke();
      context.fillText(this.format(mark), INSET.left - 6, level);
    }
    context.textBaseline = "alphabetic";
    const step = this.span < 150_000 ? 30_000 : 60_000;
    for (let ago = 0; ago <= this.span; ago += step) {
      context.textAlign = ago ? "center" : "right";
      const place = right - (ago / this.span) * (right - INSET.left);
      context.fillText(ago ? `−${step < 60_000 ? `${ago / 1000} s` : `${ago / 60_000} min`}` : "now", place, bottom + 15);
    }
  }

  line(context, { colour: name, values }, y) {
    const { at } = this.told;
    context.strokeStyle = colour(this.canvas, name);
    context.lineWidth = 2;
    context.lineJoin = "round";
    context.beginPath();
    let isDown = false;
    values.forEach((value, index) => {
      if (value !== null) context[isDown ? "lineTo" : "moveTo"](this.x(at[index]), y(value));
      isDown = value !== null;
    });
    context.stroke();
  }

  cursor(context, y, bottom) {
    const { at, series } = this.told, place = Math.round(this.x(at[this.pointed])) + 0.5;
    context.strokeStyle = colour(this.canvas, "quiet");
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(place, INSET.top);
    context.lineTo(place, bottom);
    context.stroke();
    for (const each of series) {
      const value = each.values[this.pointed];
      if (value === null || value === undefined) continue;
      context.fillStyle = colour(this.canvas, each.colour);
      context.beginPath();
      context.arc(place, y(value), 3.5, 0, 2 * Math.PI);
      context.fill();
    }
  }

  // The legend: present values, or those under the pointer.
  write() {
    const { at, series } = this.told, moment = this.pointed ?? at.length - 1;
    this.when.textContent = this.pointed === null ? "" : `${Math.round((at.at(-1) - at[moment]) / 1000)} s ago`;
    const said = series.map(({ name, values }) => `${name} ${this.text(values.at(-1))}`);
    this.canvas.setAttribute("aria-label", `${this.title}, now: ${said.join(", ") || "nothing"}`);
    while (this.legend.children.length > series.length) this.legend.lastChild.remove();
    series.forEach((each, index) => {
      const [name, value] = (this.legend.children[index] ?? pair(this.legend)).children;
      name.className = each.colour;
      if (name.textContent !== each.name) name.textContent = each.name;
      value.textContent = this.text(each.values[moment]);
    });
  }

  text(value) {
    return value === null || value === undefined ? "–" : this.format(value);
  }
}

function pair(list) {
  const made = list.appendChild(document.createElement("div"));
  made.append(document.createElement("dt"), document.createElement("dd"));
  return made;
}

// Areas upon one another that fill the canvas: a drop's units by state over time. `layers`, from the
// bottom: [[colour, values]], the values of the last moments of `at`; `total`: what the height stands for.
export function areas(canvas, at, layers, total) {
  const draw = () => {
    const ready = pen(canvas);
    if (!ready || !total) return;
    const { context, width, height } = ready, length = layers[0][1].length, moments = at.slice(-length);
    const span = Math.max(SPAN_LEAST_MS, at.at(-1) - at[0]);
    const x = (index) => width - ((at.at(-1) - moments[index]) / span) * width;
    let below = new Array(length).fill(0);
    for (const [name, values] of layers) {
      const above = values.map((value, index) => below[index] + value);
      context.fillStyle = colour(canvas, name);
      context.beginPath();
      above.forEach((value, index) => context.lineTo(x(index), height - (value / total) * height));
      for (let index = length - 1; index >= 0; index--) context.lineTo(x(index), height - (below[index] / total) * height);
      context.fill();
      below = above;
    }
  };
  if (!drawn.has(canvas)) resized.observe(canvas);
  drawn.set(canvas, draw);
  draw();
}

// A canvas that goes needs no more drawing.
export function forget(canvas) {
  resized.unobserve(canvas);
  drawn.delete(canvas);
}
