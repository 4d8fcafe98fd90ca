// Charts of the live view: canvases that share one time axis and one cursor.

const SPAN_S = 180;
const AXIS = 18; // pixels below the plot, for the times
const TOP = 8;

const root = document.documentElement;
const colour = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();

// 1, 2 or 5 times a power of ten, at least `value`
export function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 5, 10].find((step) => step * power >= value * 0.999999);
}

export class Chart {
  // `paint(chart, points)` draws into the plot; x() and the y scale that it sets do the rest.
  constructor(canvas, paint) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.paint = paint;
    new ResizeObserver(() => this.onResize?.()).observe(canvas);
  }

  draw(points, cursor) {
    const { canvas, context } = this;
    if (!canvas.clientWidth) return;
    const scale = devicePixelRatio, width = canvas.clientWidth, height = canvas.clientHeight;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
    }
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    context.font = "11px ui-sans-serif, system-ui, sans-serif";
    this.width = width;
    this.bottom = height - AXIS;
    this.end = points.length ? points.at(-1).time : 0;
    this.drawTimes();
    if (!points.length) return;
    this.paint(this, points);
    if (cursor) this.drawCursor(cursor);
  }

  x(time) { return this.width - ((this.end - time) / SPAN_S) * this.width; }
  time(x) { return this.end - ((this.width - x) / this.width) * SPAN_S; }

  linear(low, high) {
    this.y = (value) => this.bottom - ((value - low) / (high - low)) * (this.bottom - TOP);
  }

  log(low, high) {
    const from = Math.log10(low), to = Math.log10(high);
    this.y = (value) => this.bottom - ((Math.log10(Math.max(value, low)) - from) / (to - from)) * (this.bottom - TOP);
  }

  line(y, label) {
    const { context } = this, at = Math.round(y) + 0.5;
    context.strokeStyle = colour("grid");
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(0, at);
    context.lineTo(this.width, at);
    context.stroke();
    this.labels.push([label, at - 3]);
  }

  // Labels of the grid lines, over what was painted.
  drawLabels() {
    const { context } = this;
    context.textAlign = "left";
    context.lineWidth = 3;
    context.lineJoin = "round";
    context.strokeStyle = colour("raised");
    context.fillStyle = colour("soft");
    for (const [text, y] of this.labels) {
      context.strokeText(text, 7, Math.max(y, 11));
      context.fillText(text, 7, Math.max(y, 11));
    }
  }

  drawTimes() {
    const { context } = this;
    this.labels = [];
    context.fillStyle = colour("soft");
    for (const [ago, text] of [[180, "3 min ago"], [120, "2 min"], [60, "1 min"], [0, "now"]]) {
      context.textAlign = ago === 180 ? "left" : ago ? "center" : "right";
      const at = this.width * (1 - ago / SPAN_S);
      context.fillText(text, Math.min(Math.max(at, 7), this.width - 7), this.bottom + 13);
    }
  }

  drawCursor(point) {
    const { context } = this, at = Math.round(this.x(point.time)) + 0.5;
    context.strokeStyle = colour("soft");
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(at, TOP);
    context.lineTo(at, this.bottom);
    context.stroke();
  }

  // A line through value(point), interrupted where that is null.
  stroke(points, value, name, { dash = [], width = 1.5 } = {}) {
    const { context } = this;
    context.strokeStyle = colour(name);
    context.lineWidth = width;
    context.lineJoin = "round";
    context.setLineDash(dash);
    context.beginPath();
    let pen = false;
    for (const point of points) {
      const found = value(point);
      if (found === null) { pen = false; continue; }
      const x = this.x(point.time), y = this.y(found);
      pen ? context.lineTo(x, y) : context.moveTo(x, y);
      pen = true;
    }
    context.stroke();
    context.setLineDash([]);
  }

  // The area between low(point) and high(point), for each run of points that have both.
  fill(points, low, high, name, opacity = 1) {
    const { context } = this;
    context.fillStyle = colour(name);
    context.globalAlpha = opacity;
    let run = [];
    const flush = () => {
      if (run.length > 1) {
        context.beginPath();
        for (const p of run) context.lineTo(this.x(p.time), this.y(high(p)));
        for (const p of run.reverse()) context.lineTo(this.x(p.time), this.y(low(p)));
        context.fill();
      }
      run = [];
    };
    for (const point of points) high(point) === null || low(point) === null ? flush() : run.push(point);
    flush();
    context.globalAlpha = 1;
  }
}

// One cursor for all charts: it stays under the pointer, or at the time that arrow keys chose.
// `changed` is called with no arguments.
export class Cursor {
  constructor(charts, points, changed) {
    this.time = () => null;
    for (const chart of charts) {
      const { canvas } = chart;
      const set = (time) => { this.time = () => time; changed(); };
      canvas.addEventListener("pointermove", ({ offsetX }) => {
        this.time = () => chart.time(offsetX);
        changed();
      });
      canvas.addEventListener("pointerleave", () => set(null));
      canvas.addEventListener("blur", () => set(null));
      canvas.addEventListener("keydown", (event) => {
        const all = points(), here = all.indexOf(this.find(all)), last = all.length - 1;
        const to = {
          ArrowLeft: here < 0 ? last : Math.max(here - (event.shiftKey ? 10 : 1), 0),
          ArrowRight: here < 0 ? last : Math.min(here + (event.shiftKey ? 10 : 1), last),
          Home: 0, End: last, Escape: null,
        }[event.key];
        if (to === undefined || last < 0) return;
        event.preventDefault();
        set(to === null ? null : all[to].time);
      });
    }
  }

  // The point nearest to the cursor, or null.
  find(points) {
    const time = this.time();
    if (time === null || !points.length) return null;
    const far = (point) => Math.abs(point.time - time);
    return points.reduce((best, point) => (far(point) < far(best) ? point : best));
  }
}
